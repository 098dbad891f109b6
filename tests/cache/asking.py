"""Helpers with which a model reads a context into a cache and is asked about it."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from pikvpress import models

CONTEXT, NEW = 200, 6


@torch.no_grad()
def read(model, ids, cache, press=None):
    if press is None:
        model.model(input_ids=ids, past_key_values=cache)
    else:
        with press(model):
            model.model(input_ids=ids, past_key_values=cache)
    return cache


@torch.no_grad()
def ask(model, question, cache, start=CONTEXT):
    """Return the logits for a question of several tokens at once, then for its tokens again, one by one."""
    ids = torch.cat([question, question], dim=1)
    positions = torch.arange(start, start + ids.shape[1])[None]
    first = model(input_ids=question, past_key_values=cache, position_ids=positions[:, :NEW]).logits
    rest = [
        model(input_ids=ids[:, i : i + 1], past_key_values=cache, position_ids=positions[:, i : i + 1]).logits
        for i in range(NEW, 2 * NEW)
    ]
    return torch.cat([first, *rest], dim=1)


def masked_run(model, ids, question, press):
    logits = ask(model, question, read(model, ids, DynamicCache(), press))
    for layer in models.attention_layers(model):
        layer.masked_key_indices = None
    return logits


@torch.no_grad()
def token(model, cache, place=CONTEXT):
    """Return the logits after one more token, which is then removed again."""
    positions = torch.tensor([[place]])
    logits = model(torch.tensor([[7]]), past_key_values=cache, position_ids=positions).logits
    cache.crop(-1)
    return logits
