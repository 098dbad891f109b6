"""The column sums in two passes over the lower triangle of the logits, which are never written to memory.

The first pass is flash attention without values: a program holds a tile of queries and loops over the keys before it.
The second does the opposite: a program holds a tile of keys and loops over the queries after it, those of all heads of
the group. Only tiles on the diagonal are masked. Logits and log-sums use base 2. Temporary memory: 4 B H G T bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from pikvpress.kernels.checks import check_self_attention
from pikvpress.kernels.column_sums.reference import check_log_sums
from pikvpress.kernels.tiles import padded_size, precision, product

LOG2_E = math.log2(math.e)


def causal_log_sums(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the log-sum-exp of every query's logits over the keys it sees; see the reference."""
    check_self_attention(queries, keys)
    return _log2_sums(queries, keys, scaling) / LOG2_E


def column_sums(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, log_sums: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the attention that each key receives from all queries; see the reference."""
    check_self_attention(queries, keys)
    check_log_sums(log_sums, queries)
    denominators = _log2_sums(queries, keys, scaling) if log_sums is None else log_sums.contiguous().float() * LOG2_E
    batch, heads, tokens, _ = keys.shape
    received = torch.empty(batch, heads, tokens, dtype=torch.float32, device=keys.device)
    if received.numel():
        sizes, tiles = _sizes(queries, keys), _tiles(keys)
        _column_sum_kernel[(batch * heads, triton.cdiv(tokens, tiles["KEPT"]))](
            queries, keys, denominators, received, scaling * LOG2_E, *sizes, **tiles
        )
    return received


def _log2_sums(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    batch, all_heads, tokens, _ = queries.shape
    found = torch.empty(batch, all_heads, tokens, dtype=torch.float32, device=keys.device)
    if found.numel():
        sizes, tiles = _sizes(queries, keys), _tiles(keys)
        _log_sum_kernel[(batch * all_heads, triton.cdiv(tokens, tiles["KEPT"]))](
            queries, keys, found, scaling * LOG2_E, *sizes, **tiles
        )
    return found


def _sizes(queries: torch.Tensor, keys: torch.Tensor) -> tuple[int, ...]:
    _, heads, tokens, head_dim = keys.shape
    return heads, queries.shape[1] // heads, tokens, head_dim, *queries.stride(), *keys.stride()


def _tiles(keys: torch.Tensor) -> dict[str, Any]:
    dim = padded_size(keys.shape[3])
    if keys.dtype == torch.float32:  # not multiplied by tensor cores, which takes many registers
        kept, passing = 32, 32 if dim <= 64 else 16
    else:
        kept, passing = 128, 64
    tiles = {"KEPT": kept, "PASSING": passing, "DIM": dim, "PRECISION": precision(keys)}
    # Small enough for several programs to share a multiprocessor: while one multiplies, another computes exponentials.
    return tiles | {"num_warps": 8, "num_stages": 2}


@triton.jit
def _rows(states, start, tokens, head_dim, stride_row, stride_dim, ROWS: tl.constexpr, DIM: tl.constexpr):
    """Return rows of a head's queries or keys from `start` on, with zeros after the last."""
    row = (start + tl.arange(0, ROWS))[:, None]
    dim = tl.arange(0, DIM)[None, :]
    return tl.load(
        states + row.to(tl.int64) * stride_row + dim * stride_dim,
        mask=(row < tokens) & (dim < head_dim),
        other=0.0,
    )


@triton.jit
def _log_sum_kernel(
    queries, keys, log_sums, scale, heads, group, tokens, head_dim,
    query_batch, query_head, query_row, query_dim, key_batch, key_head, key_row, key_dim,
    KEPT: tl.constexpr, PASSING: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """log_sums[head, q] = log2 Σ_{t <= q} 2^logit[q, t]."""
    index = tl.program_id(0).to(tl.int64)
    batch, head = index // (heads * group), index % (heads * group)
    first = (tl.num_programs(1) - 1 - tl.program_id(1)) * KEPT  # tiles with the most keys before them start first
    queries += batch * query_batch + head * query_head
    keys += batch * key_batch + head // group * key_head
    query = _rows(queries, first, tokens, head_dim, query_row, query_dim, KEPT, DIM)
    row = first + tl.arange(0, KEPT)
    largest = tl.full((KEPT,), -float("inf"), tl.float32)  # finite from the first tile on: every query sees key 0
    total = tl.zeros((KEPT,), tl.float32)
    for start in range(0, first, PASSING):
        key = _rows(keys, start, tokens, head_dim, key_row, key_dim, PASSING, DIM)
        logits = product(query, tl.trans(key), PRECISION) * scale
        largest, total = _joined(largest, total, logits)
    for start in range(first, tl.minimum(first + KEPT, tokens), PASSING):
        key = _rows(keys, start, tokens, head_dim, key_row, key_dim, PASSING, DIM)
        logits = product(query, tl.trans(key), PRECISION) * scale
        seen = (start + tl.arange(0, PASSING))[None, :] <= row[:, None]
        largest, total = _joined(largest, total, tl.where(seen, logits, -float("inf")))
    tl.store(log_sums + index * tokens + row, largest + tl.log2(total), mask=row < tokens)


@triton.jit
def _joined(largest, total, logits):
    """Update each row's largest logit and its sum of 2^(logit - largest) with one more tile."""
    higher = tl.maximum(largest, tl.max(logits, axis=1))
    return higher, total * tl.exp2(largest - higher) + tl.sum(tl.exp2(logits - higher[:, None]), axis=1)


@triton.jit
def _column_sum_kernel(
    queries, keys, log_sums, received, scale, heads, group, tokens, head_dim,
    query_batch, query_head, query_row, query_dim, key_batch, key_head, key_row, key_dim,
    KEPT: tl.constexpr, PASSING: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """received[head, t] = Σ_{members, q >= t} 2^(logit[q, t] - log_sums[q]) / group."""
    index = tl.program_id(0).to(tl.int64)
    batch, head = index // heads, index % heads
    first = tl.program_id(1) * KEPT
    queries += batch * query_batch
    keys += batch * key_batch + head * key_head
    key = _rows(keys, first, tokens, head_dim, key_row, key_dim, KEPT, DIM)
    column = first + tl.arange(0, KEPT)
    total = tl.zeros((KEPT,), tl.float32)
    # Heads of the group take turns, so that programs of neighbouring keys read the same queries at the same time.
    for step in range(0, KEPT // PASSING * group):
        member, start = step % group, first + step // group * PASSING
        exponents = _exponents(
            queries + (head * group + member) * query_head, key, log_sums + (index * group + member) * tokens, scale,
            start, tokens, head_dim, query_row, query_dim, PASSING, DIM, PRECISION,
        )  # fmt: skip
        seen = column[:, None] <= (start + tl.arange(0, PASSING))[None, :]
        total += tl.sum(tl.exp2(tl.where(seen, exponents, -float("inf"))), axis=1)
    for step in range(0, tl.cdiv(tl.maximum(tokens - first - KEPT, 0), PASSING) * group):
        member, start = step % group, first + KEPT + step // group * PASSING
        exponents = _exponents(
            queries + (head * group + member) * query_head, key, log_sums + (index * group + member) * tokens, scale,
            start, tokens, head_dim, query_row, query_dim, PASSING, DIM, PRECISION,
        )  # fmt: skip
        total += tl.sum(tl.exp2(exponents), axis=1)
    tl.store(received + index * tokens + column, total / group, mask=column < tokens)


@triton.jit
def _exponents(
    queries, key, log_sums, scale, start, tokens, head_dim, query_row, query_dim,
    PASSING: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the logarithms of the attention that a tile of keys (rows) receives from a tile of queries (columns)."""
    row = start + tl.arange(0, PASSING)
    below = tl.load(log_sums + row, mask=row < tokens, other=float("inf"))
    query = _rows(queries, start, tokens, head_dim, query_row, query_dim, PASSING, DIM)
    return product(key, tl.trans(query), PRECISION) * scale - below[None, :]
