"""Helpers that several tests use to inspect a compressed cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.gates import Gates, key
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing import BoundRouter


def prefill(model: PreTrainedModel, ids: torch.Tensor, press: BasePress | None = None) -> DynamicCache:
    """Return the cache of a context, compressed by a press."""
    cache = DynamicCache()
    with torch.no_grad(), press(model) if press is not None else nullcontext():
        model(input_ids=ids, past_key_values=cache)
    return cache


def kept_positions(compressed: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """Return the positions (batch, heads, kept) of compressed rows in the full values (batch, heads, keys, dim)."""
    same = (compressed.unsqueeze(3) == full.unsqueeze(2)).all(dim=-1)
    assert same.any(dim=-1).all(), "a kept row is not a row of the full cache"
    return same.int().argmax(dim=-1)


@contextmanager
def recorded_scores() -> Iterator[dict[int, list[torch.Tensor]]]:
    """Record the scores of every router, by layer."""
    scores: dict[int, list[torch.Tensor]] = {}
    original = BoundRouter.score

    def score(self, layer, *args):
        scored = original(self, layer, *args)
        scores.setdefault(layer.index, []).append(scored.scores.clone())
        return scored

    with patch.object(BoundRouter, "score", score):
        yield scores


PAIRS = (("exact", "exact"), ("int8", "int8"), ("int4", "int4"), ("int2", "int2"))


def uneven_gates(model: PreTrainedModel, experts: Sequence[str] = ("keydiff", "knorm")) -> Gates:
    """Return gates for a tiny model by whose curves the first head of a layer needs tokens, and the second bits."""
    shares = (1.0, 0.5, 0.25, 0.05)
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names(experts), 2, 2, RouterSettings(top_k=2))
    tokens, bits = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 0.1, 0.5, 4.0])
    curves = torch.stack([10 * tokens + bits[:, None] / 10, tokens / 10 + 10 * bits[:, None]])
    curves = curves.expand(1, 2, 2, len(PAIRS), len(shares))
    fingerprint = models.fingerprint(models.attention_layers(model)[0])
    routers = {
        key("pikv", kind): {n: v.clone() for n, v in router.state_dict().items()} for kind in ("equal", "fitted")
    }
    return Gates(fingerprint, list(experts), routers, curves[..., 0, :], shares, (0.5,), curves, PAIRS)


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of the highest scores, in ascending order."""
    return scores.topk(count, dim=-1).indices.sort(dim=-1).values
