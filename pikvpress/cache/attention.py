"""Attention that reads a PiKVCache, as a wrapper around every attention function of transformers.

An attention function receives what the cache's `update` returned. A `Held` represents the compressed entries of a
PiKVCache and is read here; anything else is passed on to the attention function that the model is set to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from pikvpress import models
from pikvpress.cache import masks
from pikvpress.cache.held import Held
from pikvpress.cache.kvpress_rules import check_presses
from pikvpress.cache.reader import read
from pikvpress.cache.readers import READERS
from pikvpress.cache.scheduled import ScheduledLayer
from pikvpress.kvpress_at_hand import kvpress
from pikvpress.support.padding import padding as padding_of

Attention = Callable[..., tuple[torch.Tensor, Any]]


def install() -> None:
    """Wrap the registered attention functions, including those that kvpress has already wrapped.

    Eager attention is specific to each model and not registered: since transformers 5.0, models pass it when they look
    up an attention function. Wrapping the look-up also covers functions that are registered later.
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


def _heeding_masks(function: Attention) -> Attention:
    """Return an attention function in which no query attends to keys that a press has masked.

    kvpress overwrites these keys before attention. Without it, there is no press that masks any.
    """
    return function if kvpress is None else kvpress.attention_patch.attention_patch(function)


def _nothing(*args: Any, **kwargs: Any) -> Any:
    """Attend to nothing."""
    return None, None


_overwrite_masked = _heeding_masks(_nothing)


def reading(function: Attention) -> Attention:
    """Return an attention function that also reads a PiKVCache, and applies kvpress's masks in other caches.

    kvpress itself wraps only the functions that are registered when it is imported, and no eager attention.
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
            READERS.turn_to(module, key.layer, prompt=False)
            return read(module, query, key.layer, attention_mask, kwargs), None
        if kwargs.get("cache") is not None:  # of continuous batching: these are new keys, and the mask is for all
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        if torch.compiler.is_compiling():  # a PiKVCache cannot be compiled; other caches are read as before
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        if READERS.stands_in(key):  # for a PiKVLayer whose mask is not set yet
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        layer, prompt = READERS.owner(key), query.shape[2] == key.shape[2]
        READERS.turn_to(module, layer, prompt)
        if layer is not None:
            padding = padding_of(attention_mask, key.shape[2])
            if isinstance(layer, ScheduledLayer) and layer.keeper is not None:
                layer.refuse_to_schedule(module, query.shape[2], padding, kwargs.get("position_ids"))
            elif prompt:
                check_presses(module, layer.packs)
            layer.read_by(module, padding)
        attention_mask = masks.fitted(attention_mask, key.shape[2])
        if attention_mask is None and 1 < query.shape[2] < key.shape[2] and _hides_later_ones(module):
            attention_mask = ~masks.later(query.shape[2], key.shape[2], key.device)
        if not heeds_masks:
            _overwrite_masked(module, query, key, value, attention_mask, 0.0)
        output = function(module, query, key, value, attention_mask, *args, **kwargs)
        if isinstance(layer, ScheduledLayer) and layer.keeper is not None:
            layer.was_read(query, kwargs.get("scaling"))
        return output

    attention.reads_pikv_cache = True  # type: ignore[attr-defined]
    return attention


def _hides_later_ones(module: models.Attention) -> bool:
    """Return whether sdpa would align its causal mask with the first entry instead of the last.

    This happens without a mask. transformers creates no mask if the first layer is empty, because it takes the question
    for a prompt.
    """
    return module.config._attn_implementation == "sdpa" and bool(getattr(module, "is_causal", False))
