"""Ranks of the experts' scores, and their weighted sum."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work
from pikvpress.kernels.blend import reference


def _scores(dtype: torch.dtype, device: str, batch: int, heads: int, experts: int, tokens: int) -> torch.Tensor:
    """Return scores with ties of every length, as a view of a tensor with the experts after the tokens."""
    scores = torch.randn(batch, heads, tokens, experts, device=device)
    scores[..., 1::2] = scores[..., 1::2].exp().clamp(0.5, 2)
    scores[:, :, : tokens // 8] = torch.inf  # like protected sinks and windows of presses
    return scores.to(dtype).transpose(2, 3)


def make_scores(dtype: torch.dtype, device: str, *, batch: int, heads: int, experts: int, tokens: int) -> Inputs:
    """Return scores."""
    return {"scores": _scores(dtype, device, batch, heads, experts, tokens)}


def _weights(device: str, batch: int, heads: int, experts: int) -> torch.Tensor:
    """Return gate weights, every third of which is 0."""
    weights = torch.rand(batch, heads, experts, device=device) + 0.1
    weights[..., 2::3] = 0
    return weights / weights.sum(dim=-1, keepdim=True)


def make_weighted(dtype: torch.dtype, device: str, *, batch: int, heads: int, experts: int, tokens: int) -> Inputs:
    """Return scores and gate weights."""
    scores = _scores(dtype, device, batch, heads, experts, tokens)
    return {"scores": scores, "weights": _weights(device, batch, heads, experts)}


def make_ranked(dtype: torch.dtype, device: str, *, batch: int, heads: int, experts: int, tokens: int) -> Inputs:
    """Return ranks, which are float32 for every model dtype, and gate weights."""
    ranked = reference.ranks(_scores(dtype, device, batch, heads, experts, tokens))
    return {"ranked": ranked, "weights": _weights(device, batch, heads, experts)}


def work(element_size: int, *, batch: int, heads: int, experts: int, tokens: int, blended: bool = False) -> Work:
    """Return the floor: scores read once, and a float32 written per score or per key; sorting is not counted."""
    written = tokens if blended else experts * tokens
    return Work(bytes=batch * heads * (experts * tokens * element_size + 4 * written), flops=0)


def blend_work(element_size: int, *, batch: int, heads: int, experts: int, tokens: int) -> Work:
    """Return the floor: ranks of experts with non-zero weight read once."""
    return Work(bytes=4 * batch * heads * tokens * (experts - experts // 3 + 1), flops=0)


def argsort_twice(scores: torch.Tensor) -> torch.Tensor:
    """Return ranks with PyTorch's own operations, which give equal scores different ranks."""
    return scores.argsort(dim=-1).argsort(dim=-1).float() / max(1, scores.shape[-1] - 1)


SMALL = [
    {"batch": 2, "heads": 2, "experts": 3, "tokens": 37},
    {"batch": 1, "heads": 1, "experts": 1, "tokens": 1},
    {"batch": 1, "heads": 2, "experts": 2, "tokens": 0},
    {"batch": 1, "heads": 3, "experts": 5, "tokens": 2500},
]
LARGE = [{"batch": 1, "heads": 8, "experts": 6, "tokens": tokens} for tokens in (8192, 32768, 131072)]

RANKS = Operation(
    name="ranks",
    folder="blend",
    make=make_scores,
    small=SMALL,
    large=LARGE,
    work=work,
    rivals={"argsort twice": argsort_twice},
)

BLEND = Operation(
    name="blend",
    folder="blend",
    make=make_ranked,
    small=SMALL,
    large=LARGE,
    work=blend_work,
    dtypes=(torch.float32,),
)

BLENDED_RANKS = Operation(
    name="blended_ranks",
    folder="blend",
    make=make_weighted,
    small=SMALL,
    large=LARGE,
    work=partial(work, blended=True),
)
