"""What several tests ask of a compressed cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel

from pikvpress import MoERouterPress


def prefill(model: PreTrainedModel, ids: torch.Tensor, press: BasePress | None = None) -> DynamicCache:
    """Return the cache that a context leaves, compressed by a press."""
    cache = DynamicCache()
    with torch.no_grad(), press(model) if press is not None else nullcontext():
        model(input_ids=ids, past_key_values=cache)
    return cache


def kept_positions(compressed: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """Return which rows of full values (batch, heads, keys, dim) the compressed ones are, (batch, heads, kept)."""
    same = (compressed.unsqueeze(3) == full.unsqueeze(2)).all(dim=-1)
    assert same.any(dim=-1).all(), "a kept row is not a row of the full cache"
    return same.int().argmax(dim=-1)


@contextmanager
def recorded_scores() -> Iterator[dict[int, list[torch.Tensor]]]:
    """Record what every MoERouterPress.score returns, by layer."""
    scores: dict[int, list[torch.Tensor]] = {}
    original = MoERouterPress.score

    def score(self, module, *args, **kwargs):
        result = original(self, module, *args, **kwargs)
        scores.setdefault(module.layer_idx, []).append(result.clone())
        return result

    with patch.object(MoERouterPress, "score", score):
        yield scores


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of the highest scores, ascending."""
    return scores.topk(count, dim=-1).indices.sort(dim=-1).values
