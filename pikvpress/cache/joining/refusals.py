"""What cannot be joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pikvpress import models, rotary
from pikvpress.cache.joining.documents import Documents
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.readers import READERS
from pikvpress.devices import devices_of
from pikvpress.images import visual_positions
from pikvpress.model_digest import ModelDigest, model_of
from pikvpress.ranks import shard_of


def check_model(model: PreTrainedModel) -> None:
    """Raise a ``ValueError`` if keys of a model cannot be moved, or presses on it would compress what is read anew."""
    models.check_supported(model)
    layers = models.attention_layers(model)
    name = type(model).__name__
    if any(models.is_sliding(layer) for layer in layers):
        raise ValueError(
            f"{name} has layers with sliding windows, which no longer hold the tokens between two documents: contexts "
            "of such models cannot be joined"
        )
    if not any(models.rotates(layer) for layer in layers):
        raise ValueError(f"{name} does not rotate keys, so that they cannot be moved to other positions")
    if not rotary.has_fixed_frequencies(models.language_model(model).rotary_emb):
        raise ValueError(
            f"{name} rotates keys by angles that depend on the length of the text, so that those of a document read "
            "alone cannot be moved: use a model with another rope_type"
        )
    if not shard_of(layers[0]).is_whole:
        raise ValueError(f"{name} is split over ranks, and caches of such models cannot be joined: load it as a whole")
    if torch.device("meta") in devices_of(model):
        raise ValueError(f"weights of {name} are not in memory: load the model without offloading to join caches")
    on = models.presses_on(model)
    if on:
        raise ValueError(
            f"{type(on[0]).__name__} is on the model and would compress what is read anew: join outside of its `with`"
        )


def check_caches(caches: Sequence[Any], model: PreTrainedModel, documents: Documents) -> None:
    """Raise a ``ValueError`` if one of the caches cannot be joined with the others."""
    if len(caches) != len(documents.ids):
        raise ValueError(f"there are {len(caches)} caches, but token ids of {len(documents.ids)} documents")
    if any(bool(visual_positions(model, ids).any()) for ids in documents.ids):
        raise ValueError(
            "there are images in the documents, of which token ids do not say enough to read them anew: join documents "
            "of text"
        )
    modules = models.attention_layers(model)
    dtypes = {str(layer.dtype) for cache in caches for layer in cache.layers if layer.is_initialized}
    if len(dtypes) > 1:
        raise ValueError(f"the caches hold numbers of different types ({', '.join(sorted(dtypes))}): read all with one")
    for number, cache in enumerate(caches):
        try:
            _check_cache(cache, model, modules, documents.ids[number].shape[1])
        except ValueError as error:
            raise ValueError(f"cache {number} cannot be joined: {error}") from None


def _check_cache(cache: Any, model: PreTrainedModel, modules: Sequence[models.Attention], tokens: int) -> None:
    if cache.current_schedule is not None:
        raise ValueError("a scheduler keeps it within a ceiling; cache.schedule(None) ends that")
    if len(cache.layers) != len(modules):
        raise ValueError(f"it has {len(cache.layers)} layers, and the model {len(modules)}")
    for layer in cache.layers:
        if not isinstance(layer, PiKVLayer):
            raise ValueError("a press is still at work on it: join afterwards")
        if layer.part is not None:
            raise ValueError("it is split over ranks")
        if not layer.is_initialized or layer.get_seq_length() == 0:
            raise ValueError("it is empty, or has not read all layers")
        if layer.get_seq_length() > tokens:
            raise ValueError(
                f"it holds {layer.get_seq_length()} tokens, and its document has {tokens}: crop it to the document"
            )
        tail = layer.entries.tail.keys
        if tail.shape[0] != 1:
            raise ValueError(f"it holds a batch of {tail.shape[0]}: read documents one at a time")
        if layer._known_padding() is not None or layer._was_padded or layer._follows_padding:
            raise ValueError("it is padded: read documents without padding")
    _check_reader(cache, model, modules)


def _check_reader(cache: Any, model: PreTrainedModel, modules: Sequence[models.Attention]) -> None:
    """Raise a ``ValueError`` if another model is known to have filled the cache, or must have."""
    tail = cache.layers[0].entries.tail.keys
    heads, size = models.num_key_value_heads(modules[0]), modules[0].head_dim
    reader = READERS.last_reader(cache.layers[0])
    differing = ""
    if reader is not None and reader is not modules[0]:
        differing = ModelDigest.of(model).differences(ModelDigest.of(model_of(reader)))
    if (tail.shape[1], tail.shape[3]) != (heads, size):
        differing = "shapes"
    if differing:
        raise ValueError(f"another model has filled it (other {differing}): all documents must be read by this one")
