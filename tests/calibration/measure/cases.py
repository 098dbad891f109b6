"""Full caches, and how futures read them."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from pikvpress import models
from pikvpress.calibration.measure.reading import read


def full_cache(model, context):
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.tensor([context]), past_key_values=cache)
    return cache


def readings(model, cache, futures):
    return [
        read(
            cache.layers[index].keys[0],
            cache.layers[index].values[0],
            [(f.queries, f.keys, f.values, f.gradients) for f in (layers[index] for layers in futures)],
            attention.scaling,
        )
        for index, attention in enumerate(models.attention_layers(model))
    ]
