"""Bounds of pages of keys, and upper bounds of queries' scores in them."""

from __future__ import annotations

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work
from pikvpress.kernels.page_bounds import reference


def make_keys(
    dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int, page: int
) -> Inputs:
    """Return keys in projection layout."""
    keys = torch.randn(batch, tokens, heads, head_dim, device=device) + torch.randn(head_dim, device=device)
    return {"keys": keys.to(dtype).transpose(1, 2), "page": page}


def make_bounds(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    group: int,
    queries: int,
    tokens: int,
    head_dim: int,
    page: int,
) -> Inputs:
    """Return queries and bounds of pages."""
    keys = make_keys(dtype, device, batch=batch, heads=heads, tokens=tokens, head_dim=head_dim, page=page)
    lowest, highest = reference.page_bounds(**keys)
    asking = torch.randn(batch, queries, heads * group, head_dim, device=device).to(dtype).transpose(1, 2)
    return {"queries": asking, "lowest": lowest, "highest": highest}


def bounds_work(element_size: int, *, batch: int, heads: int, tokens: int, head_dim: int, page: int) -> Work:
    """Return the floor: keys read and bounds written once."""
    return Work(bytes=batch * heads * head_dim * element_size * (tokens + 2 * -(-tokens // page)), flops=0)


def scores_work(
    element_size: int, *, batch: int, heads: int, group: int, queries: int, tokens: int, head_dim: int, page: int
) -> Work:
    """Return the floor: bounds and queries read once, scores written, two matrix products."""
    pages = -(-tokens // page)
    read = batch * heads * head_dim * (2 * pages + group * queries) * element_size
    return Work(
        bytes=read + 4 * batch * heads * queries * pages,
        flops=4 * batch * heads * group * queries * pages * head_dim,
    )


def aminmax(keys: torch.Tensor, page: int) -> tuple[torch.Tensor, ...]:
    """Return the bounds of complete pages with PyTorch's operation for both."""
    whole = keys.shape[2] // page
    return tuple(keys[:, :, : whole * page].unflatten(2, (whole, page)).aminmax(dim=3))


def in_their_type(queries: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Return scores in the queries' dtype with two matrix products for all query heads of a group."""
    per_head = queries.unflatten(1, (lowest.shape[1], -1))
    up, down = per_head.clamp(min=0), per_head.clamp(max=0)
    bound = up @ highest.unsqueeze(2).mT + down @ lowest.unsqueeze(2).mT
    return bound.amax(dim=2)


SMALL = [
    {"batch": 2, "heads": 2, "tokens": 37, "head_dim": 32, "page": 16},
    {"batch": 1, "heads": 1, "tokens": 1, "head_dim": 80, "page": 5},
    {"batch": 1, "heads": 3, "tokens": 0, "head_dim": 64, "page": 16},
    {"batch": 1, "heads": 1, "tokens": 700, "head_dim": 80, "page": 7},
    {"batch": 1, "heads": 2, "tokens": 300, "head_dim": 256, "page": 1},
    {"batch": 1, "heads": 1, "tokens": 64, "head_dim": 128, "page": 100},
]
LARGE = [{"batch": 1, "heads": 8, "tokens": tokens, "head_dim": 128, "page": 16} for tokens in (8192, 32768, 131072)]

PAGE_BOUNDS = Operation(
    name="page_bounds",
    folder="page_bounds",
    make=make_keys,
    small=SMALL,
    large=LARGE,
    work=bounds_work,
    rivals={"PyTorch aminmax": aminmax},
)

PAGE_SCORES = Operation(
    name="page_scores",
    folder="page_bounds",
    make=make_bounds,
    small=[
        {"batch": 2, "heads": 2, "group": 3, "queries": 5, "tokens": 37, "head_dim": 32, "page": 4},
        {"batch": 1, "heads": 1, "group": 1, "queries": 1, "tokens": 1, "head_dim": 80, "page": 16},
        {"batch": 1, "heads": 2, "group": 2, "queries": 3, "tokens": 0, "head_dim": 64, "page": 16},
        {"batch": 1, "heads": 1, "group": 8, "queries": 70, "tokens": 300, "head_dim": 80, "page": 3},
        {"batch": 1, "heads": 2, "group": 4, "queries": 1, "tokens": 100, "head_dim": 256, "page": 1},
    ],
    large=[shape | {"group": 4, "queries": 1} for shape in LARGE],
    work=scores_work,
    rivals={"PyTorch": in_their_type},
)
