"""The attention that reads a PiKVCache, in front of every attention function of transformers.

An attention function is given what the cache's `update` returned. A `Held` stands for a PiKVCache's compressed entries
and is read here; anything else is handed on to the function that the model was set to.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeGuard

import torch
from kvpress import DecodingPress, DMSPress, PrefillDecodingPress
from kvpress.attention_patch import attention_patch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from pikvpress import models
from pikvpress.cache.held import Held
from pikvpress.cache.layer import PiKVLayer
from pikvpress.kernels.ragged_attention import attend

Attention = Callable[..., tuple[torch.Tensor, Any]]

# Which layer of a PiKVCache each attention module has read last, if it was one.
_READ: weakref.WeakKeyDictionary[Any, weakref.ref[PiKVLayer]] = weakref.WeakKeyDictionary()
# Masks of other caches, while modules read a PiKVCache.
_ASIDE: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def install() -> None:
    """Put ourselves in front of attention functions: those that are registered, those that kvpress has wrapped too.

    Eager attention is each model's own and not registered: models pass it when they look one up, as transformers has
    them do since 5.0. There functions that are registered later are met, too.
    """
    for name, function in ALL_ATTENTION_FUNCTIONS.items():
        ALL_ATTENTION_FUNCTIONS[name] = reading(function)
    look_up = getattr(AttentionInterface, "get_interface", None)
    if look_up is not None and not hasattr(look_up, "__wrapped__"):
        AttentionInterface.get_interface = _in_front(look_up)  # type: ignore[method-assign]


def _in_front(look_up: Callable[..., Attention]) -> Callable[..., Attention]:
    known: dict[Attention, Attention] = {}

    @wraps(look_up)
    def get_interface(*args: Any, **kwargs: Any) -> Attention:
        function = look_up(*args, **kwargs)
        if torch.compiler.is_compiling():
            return function
        if function not in known:
            known[function] = reading(function)
        return known[function]

    return get_interface


# What kvpress does before attention: masked keys are overwritten with such that no query attends to.
_overwrite_masked: Attention = attention_patch(lambda *args, **kwargs: None)


def reading(function: Attention) -> Attention:
    """Return an attention function that reads a PiKVCache too, and heeds masks in other caches, as kvpress has it.

    kvpress itself stands in front of the functions that are registered when it is imported, and of no eager one.
    """
    if getattr(function, "reads_pikv_cache", False):
        return function
    heeds_masks = getattr(function, "__code__", None) is _overwrite_masked.__code__

    @wraps(function)
    def attention(
        module: models.Attention,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        if isinstance(key, Held):
            _turn_to(module, key.layer, prompt=False)
            return _read(module, query, key.layer, attention_mask, kwargs.get("scaling"))
        if torch.compiler.is_compiling():  # a PiKVCache is not compileable; others are read as before
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        if getattr(key, "stands_in", False):  # for a PiKVLayer, whose mask is still to come
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        layer, prompt = _alive(getattr(key, "pikv_layer", None)), query.shape[2] == key.shape[2]
        _turn_to(module, layer, prompt)
        if layer is not None:
            if prompt:
                _check_presses(module, layer)
            layer.read_by(module, _padding(attention_mask, key.shape[2]))
        attention_mask = _fitted(attention_mask, key.shape[2])
        if attention_mask is None and 1 < query.shape[2] < key.shape[2] and _hides_later_ones(module):
            attention_mask = ~_later(query.shape[2], key.shape[2], key.device)
        if not heeds_masks:
            _overwrite_masked(module, query, key, value, attention_mask, 0.0)
        return function(module, query, key, value, attention_mask, *args, **kwargs)

    attention.reads_pikv_cache = True  # type: ignore[attr-defined]
    return attention


def _turn_to(module: models.Attention, layer: PiKVLayer | None, prompt: bool) -> None:
    """Leave a module the mask of what it is about to read, and no other.

    A press leaves its mask on the module; it belongs to the entries that the module has read last. So before others are
    read, a PiKVCache's layer is given its mask; that of another cache is laid aside until such a cache is read again;
    and a prompt begins without one.

    Parameters
    ----------
    module : Attention
        Reads.
    layer : PiKVLayer, optional
        Whose entries; None for those of another cache.
    prompt : bool
        Whether these are the first entries.
    """
    if not models.is_sliding(module):  # a PiKVLayer of such a module takes no mask: kvpress's fake keys serve it
        _hand_over(module, layer)
    if prompt:
        _ASIDE.pop(module, None)
        module.masked_key_indices = None


def _hand_over(module: models.Attention, layer: PiKVLayer | None) -> None:
    reference = _READ.pop(module, None)
    other = _alive(reference)
    if reference is not None and (other is None or other is not layer):
        if other is not None:
            other.left_by(module)
        module.masked_key_indices = None
    if layer is None:
        if module in _ASIDE:
            module.masked_key_indices = _ASIDE.pop(module)
        return
    if reference is None and getattr(module, "masked_key_indices", None) is not None:
        _ASIDE[module], module.masked_key_indices = module.masked_key_indices, None
    _READ[module] = weakref.ref(layer)


def _check_presses(module: models.Attention, layer: PiKVLayer) -> None:
    """Raise a ``ValueError`` at the start for presses that will want what a layer does not give while decoding."""
    for press in models.presses_of(module):
        decoding = press.decoding_press if isinstance(press, PrefillDecodingPress) else press
        if layer.packs and isinstance(decoding, DecodingPress):
            raise ValueError(
                f"{type(press).__name__} compresses again while decoding what this PiKVCache has packed by then: use a "
                "PiKVCache() without codecs"
            )
        if isinstance(press, DMSPress) and press.decoding:
            raise ValueError(
                "DMSPress(decoding=True) masks entries while decoding, which a PiKVCache cannot take out: use "
                "decoding=False, or a DynamicCache"
            )


def _alive(reference: weakref.ref[PiKVLayer] | None) -> PiKVLayer | None:
    return None if reference is None else reference()


def _read(
    module: models.Attention,
    query: torch.Tensor,
    layer: PiKVLayer,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> tuple[torch.Tensor, None]:
    hidden = _hidden(mask, query.shape[2], layer.new_length, query.device)
    packed = 0 if layer.decoded is None else layer.decoded.length
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    held = [(part.keys, part.values) for part in layer.parts]
    output, _ = attend(query, held, layer.recent_keys, layer.recent_values, hidden[..., packed:], scale)
    layer.pack_recent(hidden[:, :, -1])
    return output.transpose(1, 2).contiguous(), None


def _hidden(mask: torch.Tensor | None, tokens: int, new: int, device: torch.device) -> torch.Tensor:
    """Return which of the entries behind the context each query must not see, shape (batch or 1, 1, tokens, new)."""
    if _is_dense(mask):
        return _is_hidden(mask[..., -new:])
    if not isinstance(mask, torch.Tensor | None):
        raise ValueError(
            f"a {type(mask).__name__} of flex attention cannot be read beside a PiKVCache's entries: "
            "model.set_attn_implementation('sdpa')"
        )
    if mask is None and tokens == 1:
        return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device).expand(1, 1, 1, new)
    later = _later(tokens, new, device)
    return later if mask is None else later | (mask[:, None, None, -new:] == 0)


def _later(tokens: int, length: int, device: torch.device) -> torch.Tensor:
    """Return which entries come after each of the latest tokens, bool, shape (1, 1, tokens, length)."""
    place = torch.arange(length, device=device)
    return (place > length - tokens + torch.arange(tokens, device=device).unsqueeze(1))[None, None]


def _hides_later_ones(module: models.Attention) -> bool:
    """Return whether sdpa would be causal from the first entry, not from the last.

    It is so without a mask, which transformers makes none if the first layer is empty: it takes the question for a
    prompt.
    """
    return module.config._attn_implementation == "sdpa" and bool(getattr(module, "is_causal", False))


def _is_dense(mask: Any) -> TypeGuard[torch.Tensor]:
    """Return whether a mask has an entry for each query and key, as those of flash and flex attention have not."""
    return isinstance(mask, torch.Tensor) and mask.dim() == 4


def _is_hidden(mask: torch.Tensor) -> torch.Tensor:
    return ~mask if mask.dtype == torch.bool else mask < 0


def _fitted(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return a mask that covers a layer's entries: transformers makes one for all layers, by the first one's length.

    Presses may leave layers of different lengths, in any cache. The latest entries are the last in both; of older ones,
    which a press has left, every one is seen.
    """
    if not _is_dense(mask) or mask.shape[-1] == length:
        return mask
    if mask.shape[-1] > length:
        return mask[..., -length:]
    seen = torch.ones_like if mask.dtype == torch.bool else torch.zeros_like
    return torch.cat([seen(mask[..., :1]).expand(*mask.shape[:-1], length - mask.shape[-1]), mask], dim=-1)


def _padding(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return which entries not even the last query sees, shape (batch, entries), or None if the mask does not say."""
    if not _is_dense(mask) or mask.shape[-1] != length:
        return None
    return _is_hidden(mask[:, 0, -1])
