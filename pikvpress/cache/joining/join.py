"""Joining: one document after the other is put behind what is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.cache.choice import of_layer
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.joining.documents import Documents
from pikvpress.cache.joining.first_tokens import dropped, first_keys, read
from pikvpress.cache.joining.moving import decoded, moved
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.readers import READERS
from pikvpress.cache.saving.contents import LayerContents
from pikvpress.cache.saving.whole import CacheState
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail

if TYPE_CHECKING:
    from pikvpress.cache.joining.joinable import Joinable


@torch.no_grad()
def join_into(joined: Joinable, caches: Sequence[Any], model: PreTrainedModel, documents: Documents) -> None:
    """Let an empty cache hold documents that were read alone; see `PiKVCache.join`."""
    modules, state = models.attention_layers(model), caches[0].state
    contents = [
        [
            LayerContents.of(layer).to(next(module.parameters()).device)
            for layer, module in zip(cache.layers, modules, strict=True)
        ]
        for cache in caches
    ]
    layers = []
    for index, (module, first) in enumerate(zip(modules, contents[0], strict=True)):
        layer = PiKVLayer(*of_layer(state.codecs, index), state.window)
        layer.dtype, layer.device = first.entries.tail.keys.dtype, first.entries.tail.keys.device
        layer.is_initialized, layer.depth = True, len(modules)
        layer.entries = _begun(first.entries, documents.ids[0].shape[1])
        READERS.remember(module, layer)
        layers.append(layer)
    joined.take(CacheState(layers, state.codecs, state.window, [0] * len(layers), len(layers) - 1))
    head = DynamicCache()
    with models.rotary_at_hand(model):
        for number in range(1, len(caches)):
            keys = _first_keys(model, documents, number, contents[number], head)
            own = documents.ids[number][:, documents.head :]
            if documents.again(number):
                read(model, own[:, : documents.again(number)], joined)
            for index, (layer, module) in enumerate(zip(layers, modules, strict=True)):
                entries, first_tokens = contents[number][index].entries, None if keys is None else keys[index]
                behind = _moved(entries, module, first_tokens, documents, number)
                layer.entries = _followed(layer.entries, behind)
    for layer, first in zip(layers, contents[0], strict=True):
        layer._following = first.attributes["_following"]  # not before: tokens that are read anew stay exact


def _first_keys(
    model: PreTrainedModel, documents: Documents, number: int, contents: Sequence[LayerContents], head: DynamicCache
) -> list[torch.Tensor] | None:
    """Return the keys by which entries are recognised, or None if none need to be: heads are complete, or go."""
    last, tokens = documents.head + documents.again(number), documents.ids[number].shape[1]
    if last in (0, tokens) or all(count == tokens for one in contents for count in one.entries.counts()):
        return None
    return first_keys(model, documents, number, head)


def _begun(entries: Entries, tokens: int) -> Entries:
    """Return the first document's entries as a compressed context of so many tokens."""
    begun = _followed(entries.with_context_only(), ())
    first, *others = begun.compressed.context
    missing = tokens - entries.length  # of presses that shorten all heads alike
    return replace(begun, compressed=Compressed((replace(first, length=first.length + missing), *others)))


def _moved(
    entries: Entries, module: models.Attention, keys: torch.Tensor | None, documents: Documents, number: int
) -> tuple[Stretch, ...]:
    """Return what of a document's layer is put behind its own tokens that were read anew."""
    held = decoded(entries)
    heads = [torch.cat(parts) for parts in zip(*(stretch.keys for stretch in held), strict=True)]
    kept = [~gone for gone in dropped(heads, keys, documents, number)]
    offset = documents.start(number) - documents.head
    return moved(held, kept, module, offset, documents.own(number) - documents.again(number))


def _followed(entries: Entries, stretches: Sequence[Stretch]) -> Entries:
    """Return entries with what was read last, exactly, as a part of the context, and stretches behind it."""
    context = entries.compressed.context
    if entries.tail.length:
        context = (*context, _exact(entries.tail))
    return Entries(entries.tail.between(0, 0).copied(), Compressed((*context, *stretches)))


def _exact(tail: DenseTail) -> Stretch:
    every = torch.ones(tail.keys.shape[:3], dtype=torch.bool, device=tail.keys.device)
    exact = [EXACT] * tail.keys.shape[1]
    return Stretch.store(tail, every, (exact, exact), None)
