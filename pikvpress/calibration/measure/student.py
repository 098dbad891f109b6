"""Differentiable predictions from a compressed cache: keys are weighted instead of removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from pikvpress import models

MODE = "pikvpress_weighed_keys"


def predict(
    model: PreTrainedModel,
    cache: DynamicCache,
    kept: Mapping[int, torch.Tensor],
    futures: Sequence[Sequence[int]],
    start: int | None = None,
) -> list[torch.Tensor]:
    """Return log probabilities of the next token after each token of each future, each of shape (tokens, vocabulary).

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    cache : DynamicCache
        The full cache of the context, which is not changed.
    kept : mapping of int to torch.Tensor
        For each layer, the degree to which each key of the context is kept: 1 = kept, 0 = removed, shape (kv_heads,
        keys). Layers that are not listed keep all keys.
    futures : sequence of sequences of int
        Token ids after the context; futures do not see each other.
    start : int, optional
        Position of a future's first token, if the cache does not hold every entry of the context.
    """
    longest = max(map(len, futures))
    ids = torch.tensor([[*future, *[0] * (longest - len(future))] for future in futures], device=model.device)
    copy = models.copied(cache)
    copy.batch_repeat_interleave(len(futures))
    positions = None if start is None else torch.arange(start, start + longest, device=model.device).unsqueeze(0)
    with _weighing(model, kept):
        logits = model(input_ids=ids, past_key_values=copy, position_ids=positions).logits
    return [row[: len(future)].float().log_softmax(dim=-1) for row, future in zip(logits, futures, strict=True)]


@contextmanager
def _weighing(model: PreTrainedModel, kept: Mapping[int, torch.Tensor]) -> Iterator[None]:
    layers = models.attention_layers(model)
    for index, layer in enumerate(layers):
        layer.kept_share = kept.get(index)
    try:
        with models.attention_mode(model, MODE):
            yield
    finally:
        for layer in layers:
            del layer.kept_share


def attend(
    module: models.Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to each key in proportion to how far it is kept, and causally to own tokens; shapes as in transformers."""
    heads, tokens, held = key.shape[1], query.shape[2], key.shape[2] - query.shape[2]
    logits = query.unflatten(1, (heads, -1)) @ key.unsqueeze(2).transpose(3, 4) * scaling
    place = torch.arange(key.shape[2], device=key.device)
    current = held + torch.arange(tokens, device=key.device).unsqueeze(1)
    hidden = place > current
    if sliding_window is not None:
        hidden |= place <= current - sliding_window
    weights = logits.float().masked_fill(hidden, -torch.inf).softmax(dim=-1)
    if module.kept_share is not None:
        own = weights.new_ones(heads, tokens)
        weights = weights * torch.cat([module.kept_share, own], dim=-1)[None, :, None, None]
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-9)
    output = (weights.to(value.dtype) @ value.unsqueeze(2)).flatten(1, 2)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(MODE, attend)
