"""Non-causal attention within chunks, without writing logits to memory.

A program holds the keys of a chunk and loops over the queries of the chunk, those of all heads of the group. If one
tile holds all keys of a chunk, the program computes each query's denominator along the way; for longer chunks, another
kernel computes the denominators first (temporary memory: 4 B H G T bytes).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pikvpress.kernels.checks import check_self_attention
from pikvpress.kernels.chunk_attention.reference import check_chunk
from pikvpress.kernels.tiles import padded_size, precision, product


def chunk_attention(queries: torch.Tensor, keys: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return the attention that each key receives from all queries in its chunk; see the reference."""
    check_self_attention(queries, keys)
    check_chunk(chunk)
    batch, heads, tokens, head_dim = keys.shape
    group = queries.shape[1] // max(1, heads)
    received = torch.empty(batch, heads, tokens, dtype=torch.float32, device=keys.device)
    if not received.numel():
        return received
    rows, columns = _tile(keys, chunk)
    whole = columns >= chunk
    chunks = triton.cdiv(tokens, chunk)
    sizes = (heads, group, tokens, chunk, head_dim, *queries.stride(), *keys.stride())
    tile = {"ROWS": rows, "KEYS": columns, "DIM": padded_size(head_dim), "PRECISION": precision(keys)}
    tile |= {"num_warps": 8, "num_stages": 2}
    log_sums = received  # not read
    if not whole:
        log_sums = torch.empty(batch * heads, chunks, group * chunk, dtype=torch.float32, device=keys.device)
        grid = (chunks * triton.cdiv(group * chunk, rows), batch * heads)
        _log_sum_kernel[grid](queries, keys, log_sums, *sizes, **tile)
    grid = (chunks * triton.cdiv(chunk, columns), batch * heads)
    _column_sum_kernel[grid](queries, keys, log_sums, received, *sizes, WHOLE=whole, **tile)
    return received


def _tile(keys: torch.Tensor, chunk: int) -> tuple[int, int]:
    """Return the number of queries and keys of a tile."""
    dim = padded_size(keys.shape[3])
    if keys.dtype == torch.float32:  # not multiplied by tensor cores, which takes many registers
        return 32 if dim <= 64 else 16, min(32, padded_size(chunk))
    return 64, min(256 if dim <= 128 else 128, padded_size(chunk))


@triton.jit
def _queries_of(
    queries, row, first, group, tokens, chunk, head_dim, stride_head, stride_row, stride_dim, DIM: tl.constexpr
):
    """Return queries of a chunk, one head after another, with zeros after the last token."""
    member, token = (row // chunk)[:, None], (first + row % chunk)[:, None]
    dim = tl.arange(0, DIM)[None, :]
    return tl.load(
        queries + member.to(tl.int64) * stride_head + token.to(tl.int64) * stride_row + dim * stride_dim,
        mask=(member < group) & (token < tokens) & (dim < head_dim),
        other=0.0,
    )


@triton.jit
def _keys_of(keys, inside, first, tokens, chunk, head_dim, stride_row, stride_dim, DIM: tl.constexpr):
    """Return keys of a chunk, with zeros after the last token."""
    token = (first + inside)[:, None]
    dim = tl.arange(0, DIM)[None, :]
    return tl.load(
        keys + token.to(tl.int64) * stride_row + dim * stride_dim,
        mask=(inside < chunk)[:, None] & (token < tokens) & (dim < head_dim),
        other=0.0,
    )


@triton.jit
def _log_sum_kernel(
    queries, keys, log_sums, heads, group, tokens, chunk, head_dim,
    query_batch, query_head, query_row, query_dim, key_batch, key_head, key_row, key_dim,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """log_sums[head, chunk, row] = log Σ_t exp(logit[row, t]) over the keys t of the chunk."""
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    tiles = tl.cdiv(group * chunk, ROWS)
    number = tl.program_id(0) // tiles
    first = number * chunk
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    queries += batch * query_batch + head * group * query_head
    keys += batch * key_batch + head * key_head
    query = _queries_of(
        queries, row, first, group, tokens, chunk, head_dim, query_head, query_row, query_dim, DIM
    )  # fmt: skip
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, chunk, KEYS):
        inside = start + tl.arange(0, KEYS)
        key = _keys_of(keys, inside, first, tokens, chunk, head_dim, key_row, key_dim, DIM)
        logits = product(query, tl.trans(key), PRECISION)
        logits = tl.where(inside[None, :] < chunk, logits, -float("inf"))
        higher = tl.maximum(largest, tl.max(logits, axis=1))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(logits - higher[:, None]), axis=1)
        largest = higher
    place = (index * tl.cdiv(tokens, chunk) + number) * group * chunk + row
    tl.store(log_sums + place, largest + tl.log(total), mask=row < group * chunk)


@triton.jit
def _column_sum_kernel(
    queries, keys, log_sums, received, heads, group, tokens, chunk, head_dim,
    query_batch, query_head, query_row, query_dim, key_batch, key_head, key_row, key_dim,
    WHOLE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """received[head, t] = Σ_rows exp(logit[row, t]) / Σ_u exp(logit[row, u]) / group over the rows of t's chunk."""
    index = tl.program_id(1).to(tl.int64)
    batch, head = index // heads, index % heads
    tiles = tl.cdiv(chunk, KEYS)
    number = tl.program_id(0) // tiles
    first = number * chunk
    inside = tl.program_id(0) % tiles * KEYS + tl.arange(0, KEYS)
    queries += batch * query_batch + head * group * query_head
    keys += batch * key_batch + head * key_head
    key = _keys_of(keys, inside, first, tokens, chunk, head_dim, key_row, key_dim, DIM)
    total = tl.zeros((ROWS, KEYS), tl.float32)  # summed over rows only at the end, since rows lie in different warps
    for start in range(0, group * chunk, ROWS):
        row = start + tl.arange(0, ROWS)
        query = _queries_of(
            queries, row, first, group, tokens, chunk, head_dim, query_head, query_row, query_dim, DIM
        )  # fmt: skip
        logits = product(query, tl.trans(key), PRECISION)
        logits = tl.where(inside[None, :] < chunk, logits, -float("inf"))
        if WHOLE:
            weights = tl.exp(logits - tl.max(logits, axis=1)[:, None])
            total += weights * tl.where(row < group * chunk, 1.0 / tl.sum(weights, axis=1), 0.0)[:, None]
        else:
            place = (index * tl.cdiv(tokens, chunk) + number) * group * chunk + row
            total += tl.exp(logits - tl.load(log_sums + place, mask=row < group * chunk, other=float("inf"))[:, None])
    found = tl.sum(total, axis=0) / group
    token = first + inside
    tl.store(received + index * tokens + token, found, mask=(inside < chunk) & (token < tokens))
