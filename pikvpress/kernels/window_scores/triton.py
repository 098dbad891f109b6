"""The window scores in two passes over the keys, without a buffer of logits.

The first pass writes the log-sum-exp of every query over each block of keys; together, they give the denominators of
the softmax. The second computes the logits again and sums each key's column. Temporary memory: 4 B H G Q T / 512 bytes,
twice that for wide heads and four times that in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pikvpress.kernels.tiles import padded_size, precision, product

TILES = 4  # of keys per program of the first pass
# Queries and keys per tile, by bytes per number. float32 products do not use tensor cores, and larger tiles would spill
# registers. Wide 16-bit heads need smaller tiles to fit into the 99 KiB of shared memory that most GPUs have.
SIZES = {2: (64, 128), 4: (32, 32)}
WIDE = (32, 64)


def received_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the attention that each key receives; see the reference."""
    batch, heads, num_keys, head_dim = keys.shape
    window = queries.shape[2]
    rows = queries.unflatten(1, (heads, -1)).flatten(2, 3).flatten(0, 1)  # (B * H, G * Q, D)
    num_rows = rows.shape[1]
    keys = keys.flatten(0, 1)
    dim = padded_size(head_dim)
    tile_rows, tile_keys = WIDE if dim > 128 and keys.element_size() == 2 else SIZES[keys.element_size()]
    blocks = triton.cdiv(num_keys, tile_keys * TILES)
    partial = torch.empty(batch * heads, blocks, num_rows, dtype=torch.float32, device=keys.device)
    received = torch.empty(batch * heads, num_keys, dtype=torch.float32, device=keys.device)
    sizes = (num_rows, num_keys, window, head_dim)
    tile = {
        "ROWS": tile_rows,
        "KEYS": tile_keys,
        "DIM": dim,
        "PRECISION": precision(keys),
        "num_warps": 8,
    }
    _log_sum_kernel[(blocks, batch * heads)](
        rows, keys, partial, scaling, *sizes, *rows.stride(), *keys.stride(), TILES=TILES, **tile
    )
    denominators = partial.logsumexp(dim=1)
    _column_sum_kernel[(triton.cdiv(num_keys, tile_keys), batch * heads)](
        rows, keys, denominators, received, scaling, *sizes, *rows.stride(), *keys.stride(), **tile
    )
    return (received / (num_rows // window)).view(batch, heads, num_keys)


@triton.jit
def _logits(
    queries, key, row, column, scaling, num_rows, num_keys, window, head_dim, stride_row, stride_dim,
    DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the scaled logits of a tile, -inf where a query does not see a key."""
    dim = tl.arange(0, DIM)
    query = tl.load(
        queries + row[:, None].to(tl.int64) * stride_row + dim[None, :] * stride_dim,
        mask=(row[:, None] < num_rows) & (dim[None, :] < head_dim),
        other=0.0,
    )
    logits = product(query, key, PRECISION) * scaling
    last = num_keys - window + row % window
    seen = (column[None, :] <= last[:, None]) & (column[None, :] < num_keys)
    return tl.where(seen, logits, -float("inf"))


@triton.jit
def _transposed_keys(keys, column, num_keys, head_dim, stride_key, stride_dim, DIM: tl.constexpr):
    dim = tl.arange(0, DIM)
    return tl.load(
        keys + column[None, :].to(tl.int64) * stride_key + dim[:, None] * stride_dim,
        mask=(column[None, :] < num_keys) & (dim[:, None] < head_dim),
        other=0.0,
    )


@triton.jit
def _log_sum_kernel(
    queries, keys, partial, scaling, num_rows, num_keys, window, head_dim,
    query_head, query_row, query_dim, key_head, key_row, key_dim,
    TILES: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial[head, block, row] = log Σ_t exp(logit[row, t]) over the keys t of a block."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    queries += head * query_head
    keys += head * key_head
    for start in range(0, num_rows, ROWS):
        row = start + tl.arange(0, ROWS)
        largest = tl.full((ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        for tile in range(TILES):
            column = (block * TILES + tile) * KEYS + tl.arange(0, KEYS)
            key = _transposed_keys(keys, column, num_keys, head_dim, key_row, key_dim, DIM)
            logits = _logits(
                queries, key, row, column, scaling, num_rows, num_keys, window, head_dim, query_row, query_dim,
                DIM, PRECISION,
            )  # fmt: skip
            higher = tl.maximum(largest, tl.max(logits, axis=1))
            safe = tl.where(higher == -float("inf"), 0.0, higher)
            total = total * tl.exp(largest - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
            largest = higher
        found = tl.where(total > 0, largest + tl.log(tl.where(total > 0, total, 1.0)), -float("inf"))
        place = (head * tl.num_programs(0) + block) * num_rows + row
        tl.store(partial + place, found, mask=row < num_rows)


@triton.jit
def _column_sum_kernel(
    queries, keys, denominators, received, scaling, num_rows, num_keys, window, head_dim,
    query_head, query_row, query_dim, key_head, key_row, key_dim,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """received[head, t] = Σ_rows exp(logit[row, t] - denominator[row])."""
    head = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    queries += head * query_head
    key = _transposed_keys(keys + head * key_head, column, num_keys, head_dim, key_row, key_dim, DIM)
    total = tl.zeros((KEYS,), tl.float32)
    for start in range(0, num_rows, ROWS):
        row = start + tl.arange(0, ROWS)
        logits = _logits(
            queries, key, row, column, scaling, num_rows, num_keys, window, head_dim, query_row, query_dim,
            DIM, PRECISION,
        )  # fmt: skip
        below = tl.load(denominators + head * num_rows + row, mask=row < num_rows, other=float("inf"))
        total += tl.sum(tl.exp(logits - below[:, None]), axis=0)
    tl.store(received + head * num_keys + column, total, mask=column < num_keys)
