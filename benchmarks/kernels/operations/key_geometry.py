"""Norms of keys and values, and directions of keys."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from benchmarks.kernels.operation import Inputs, Operation, Work


def _keys(dtype: torch.dtype, device: str, batch: int, heads: int, tokens: int, head_dim: int) -> torch.Tensor:
    """Return keys in projection layout, with a common direction and one key of norm 0."""
    keys = torch.randn(batch, tokens, heads, head_dim, device=device)
    keys[..., ::4] += 2
    keys[:, 3:4] = 0
    return keys.to(dtype).transpose(1, 2)


def make(dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int) -> Inputs:
    """Return keys and values."""
    values = torch.randn(batch, heads, tokens, head_dim, device=device).to(dtype)
    return {"keys": _keys(dtype, device, batch, heads, tokens, head_dim), "values": values}


def make_keys(dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int) -> Inputs:
    """Return keys."""
    return {"keys": _keys(dtype, device, batch, heads, tokens, head_dim)}


def make_direction(dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int) -> Inputs:
    """Return keys and their common direction."""
    keys = _keys(dtype, device, batch, heads, tokens, head_dim)
    return {"keys": keys, "direction": F.normalize(keys.float(), dim=-1).sum(dim=2) / max(1, tokens)}


def work(
    element_size: int, *, batch: int, heads: int, tokens: int, head_dim: int, tensors: int = 2, norms: int = 2
) -> Work:
    """Return the floor: tensors read once, norms or cosines of each token written, a direction read or written."""
    row = tensors * head_dim * element_size + 4 * norms
    return Work(bytes=batch * heads * (tokens * row + 4 * head_dim), flops=0)


def plain_geometry(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the same with PyTorch's own operations."""
    key_norms, value_norms = keys.norm(dim=-1, dtype=torch.float32), values.norm(dim=-1, dtype=torch.float32)
    direction = (key_norms.clamp_min(1e-12).reciprocal().to(keys.dtype).unsqueeze(-2) @ keys).squeeze(-2)
    return key_norms, value_norms, direction / keys.shape[2]


def normalised_mean(keys: torch.Tensor) -> torch.Tensor:
    """Return the anchor with KeyDiff's formula in kvpress."""
    return F.normalize(keys, p=2, dim=-1).mean(dim=2)


def cosine_similarity(keys: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the cosines with KeyDiff's formula in kvpress, given its anchor."""
    return F.cosine_similarity(keys, direction.to(keys.dtype).unsqueeze(2), dim=-1)


SMALL = [
    {"batch": 2, "heads": 2, "tokens": 37, "head_dim": 32},
    {"batch": 1, "heads": 1, "tokens": 1, "head_dim": 80},
    {"batch": 1, "heads": 3, "tokens": 0, "head_dim": 64},
    {"batch": 1, "heads": 1, "tokens": 700, "head_dim": 80},
    {"batch": 1, "heads": 2, "tokens": 300, "head_dim": 256},
]
LARGE = [{"batch": 1, "heads": 8, "tokens": tokens, "head_dim": 128} for tokens in (8192, 32768, 131072)]

KEY_GEOMETRY = Operation(
    name="key_geometry",
    folder="key_geometry",
    make=make,
    small=SMALL,
    large=LARGE,
    work=work,
    rivals={"PyTorch": plain_geometry},
)

MEAN_DIRECTION = Operation(
    name="mean_direction",
    folder="key_geometry",
    make=make_keys,
    small=SMALL,
    large=LARGE,
    work=partial(work, tensors=1, norms=0),
    rivals={"kvpress KeyDiff": normalised_mean},
)

COSINES = Operation(
    name="cosines",
    folder="key_geometry",
    make=make_direction,
    small=SMALL,
    large=LARGE,
    work=partial(work, tensors=1, norms=1),
    rivals={"kvpress KeyDiff": cosine_similarity},
)
