"""The attention that reads a PiKVCache, in front of every attention function of transformers.

An attention function is given what the cache's `update` returned. A `Held` stands for a PiKVCache's compressed entries
and is read here; anything else is handed on to the function that the model was set to.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pikvpress import models
from pikvpress.cache.held import Held
from pikvpress.cache.layer import PiKVLayer
from pikvpress.kernels.ragged_attention import attend

Attention = Callable[..., tuple[torch.Tensor, Any]]

# Which layer of which cache each attention module has read its prompt into: a press's mask belongs to it.
_READ: weakref.WeakKeyDictionary[Any, weakref.ref[PiKVLayer]] = weakref.WeakKeyDictionary()


def install() -> None:
    """Put ourselves in front of the attention functions that are registered, those that kvpress has wrapped too.

    Eager attention is each model's own and not registered; what we register under its name finds it again.
    """
    for name, function in [*ALL_ATTENTION_FUNCTIONS.items(), ("eager", _eager)]:
        if not getattr(function, "reads_pikv_cache", False):
            ALL_ATTENTION_FUNCTIONS[name] = reading(function)


def _eager(module: models.Attention, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
    files = (sys.modules[base.__module__] for base in type(module).__mro__)
    own = next(file.eager_attention_forward for file in files if hasattr(file, "eager_attention_forward"))
    return own(module, *args, **kwargs)


def reading(function: Attention) -> Attention:
    """Return an attention function that reads a PiKVCache too."""

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
            return _read(module, query, key.layer, attention_mask, kwargs.get("scaling"))
        if torch.compiler.is_compiling():  # a PiKVCache is not compileable; others are read as before
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        _watch(module, query, key, attention_mask)
        if getattr(key, "pikv_layer", None) is not None:
            attention_mask = _fitted(attention_mask, query.shape[2], key.shape[2])
        return function(module, query, key, value, attention_mask, *args, **kwargs)

    attention.reads_pikv_cache = True  # type: ignore[attr-defined]
    return attention


def _watch(module: models.Attention, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Tell a layer that its prompt is being read, and by whom, before the module forgets the mask of another."""
    layer = _alive(getattr(key, "pikv_layer", None))
    if query.shape[2] == key.shape[2]:
        other = _alive(_READ.pop(module, None))
        if other is not None and other is not layer:
            other.settle()
            other.left_by(module)
    if layer is not None:
        _READ[module] = weakref.ref(layer)
        layer.read_by(module, _padding(mask, key.shape[2]))


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
    if mask is not None and mask.dim() == 4:
        return _is_hidden(mask[..., -new:])
    if mask is None and tokens == 1:
        return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device).expand(1, 1, 1, new)
    place = torch.arange(new, device=device)
    later = (place > new - tokens + torch.arange(tokens, device=device).unsqueeze(1))[None, None]
    return later if mask is None else later | (mask[:, None, None, -new:] == 0)


def _is_hidden(mask: torch.Tensor) -> torch.Tensor:
    return ~mask if mask.dtype == torch.bool else mask < 0


def _fitted(mask: torch.Tensor | None, tokens: int, length: int) -> torch.Tensor | None:
    """Return a mask that covers a layer's entries: transformers makes one for all layers, by the first one's length.

    The latest entries are the last in both; of older ones, which a press has left, every one is seen.
    """
    if mask is None or mask.dim() != 4 or tokens == length or mask.shape[-1] == length:
        return mask
    if mask.shape[-1] > length:
        return mask[..., -length:]
    seen = torch.ones_like if mask.dtype == torch.bool else torch.zeros_like
    return torch.cat([seen(mask[..., :1]).expand(*mask.shape[:-1], length - mask.shape[-1]), mask], dim=-1)


def _padding(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return which entries not even the last query sees, shape (batch, entries), or None if the mask does not say."""
    if mask is None or mask.dim() != 4 or mask.shape[-1] != length:
        return None
    return _is_hidden(mask[:, 0, -1])
