"""A press used the way kvpress intends, for comparison."""

from __future__ import annotations

import torch
from kvpress.utils import extract_keys_and_values
from transformers import DynamicCache

from pikvpress import models


def alone(model, context, press):
    """Return the keys, values and masks that a press leaves, by layer."""
    cache = DynamicCache()
    layers = models.attention_layers(model)
    with torch.no_grad(), press(model):
        model.model(input_ids=torch.tensor([context]), past_key_values=cache)
    masked = [getattr(layer, "masked_key_indices", None) for layer in layers]
    for layer in layers:
        layer.masked_key_indices = None
    return [extract_keys_and_values(cache, i) for i in range(len(cache))], masked


def entries(masked):
    """Return masked entries as a set."""
    return set() if masked is None else set(zip(*(part.tolist() for part in masked), strict=True))


def assert_same(context, layers, masks):
    """Fail unless a compressed context holds these keys, values and masks."""
    for (keys, values), (their_keys, their_values) in zip(context.layers, layers, strict=True):
        torch.testing.assert_close(keys, their_keys)
        torch.testing.assert_close(values, their_values)
    assert [entries(ours) for ours in context.masked] == [entries(theirs) for theirs in masks]
