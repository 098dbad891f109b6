"""Moments of queries and the attention that they are expected to pay, each in one pass over the queries or keys.

Moments: a program sums over a run of tokens, after subtracting the mean of its first tile to avoid cancellation, and a
second kernel combines the runs in order. The number of runs depends on the number of heads, not on that of tokens
(unless there are few tokens). For the covariance, 16-bit queries are rounded to 16 bits again after the subtraction;
the errors average out.

Attention: the first kernel writes the logits of every query head, 4 B H G T bytes, and their log-sum-exp over each
tile; the second converts them to the mean attention of a group. 16-bit keys are multiplied by 16-bit matrices: a
covariance is represented as the sum of two of these, which preserves at least 16 of its bits.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl

from pikvpress.kernels.expected_attention.reference import check_moments, check_queries
from pikvpress.kernels.tiles import padded_size, precision, product

PROGRAMS = 256  # sharing the queries: enough to fill a GPU
KEYS = 128  # per tile
NUMBERS = 8192  # per tile of a covariance


def query_moments(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of the queries of each head; see the reference."""
    check_queries(queries)
    batch, heads, num_tokens, head_dim = queries.shape
    exact = queries.dtype == torch.float32
    side, tokens = min(padded_size(head_dim), 64 if exact else 128), 32 if exact else 64
    blocks = triton.cdiv(head_dim, side)
    tiles = triton.cdiv(num_tokens, tokens)
    of_split = triton.cdiv(tiles, min(tiles, triton.cdiv(PROGRAMS, max(1, batch * heads * blocks**2)))) * tokens
    splits = triton.cdiv(num_tokens, of_split)
    new = partial(torch.empty, dtype=torch.float32, device=queries.device)
    means = new(batch * heads, splits, head_dim)
    products = new(batch * heads, splits, head_dim, head_dim)
    mean = new(batch, heads, head_dim)
    covariance = new(batch, heads, head_dim, head_dim)
    if batch * heads == 0:
        return mean, covariance
    _products_kernel[(splits * blocks**2, batch * heads)](
        queries, means, products, num_tokens, of_split, heads, head_dim, *queries.stride(),
        BLOCKS=blocks, TOKENS=tokens, SIDE=side, PRECISION=precision(queries),
        num_warps=8 if side > 64 else 4, num_stages=4 if blocks == 1 else 2,
    )  # fmt: skip
    side = min(padded_size(head_dim), 64)
    blocks = triton.cdiv(head_dim, side)
    _join_kernel[(blocks**2, batch * heads)](
        means, products, mean, covariance, num_tokens, of_split, splits, head_dim, BLOCKS=blocks, SIDE=side
    )
    return mean, covariance


def expected_attention(
    keys: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return the attention that each key would receive; see the reference."""
    check_moments(keys, mean, covariance)
    batch, heads, num_keys, head_dim = keys.shape
    group = mean.shape[1] // max(1, heads)
    new = partial(torch.empty, dtype=torch.float32, device=keys.device)
    attention = new(batch, heads, num_keys)
    if attention.numel() == 0:
        return attention
    exact, padded = keys.dtype == torch.float32, padded_size(head_dim)
    of_tile = 32 if exact else KEYS if padded <= 128 else KEYS // 2  # to fit the shared memory of small GPUs
    columns = min(padded, 32 if exact else max(16, NUMBERS // padded))
    tiles = triton.cdiv(num_keys, of_tile)
    linear = (mean.float() * scaling).contiguous()
    matrices, largest = (linear, linear) if covariance is None else _matrices(covariance.float(), keys.dtype)
    factors = largest * (scaling**2 / 2)
    logits = new(batch * heads * group, num_keys)
    log_sums = new(batch * heads * group, tiles)
    _logits_kernel[(tiles, batch * heads)](
        keys, linear, matrices, factors, logits, log_sums, num_keys, heads, group, head_dim, *keys.stride(),
        PARTS=0 if covariance is None else matrices.shape[1], KEYS=of_tile, COLUMNS=columns, DIM=padded,
        PRECISION=precision(keys), num_warps=4 if exact else 8, num_stages=2,
    )  # fmt: skip
    denominators = log_sums.logsumexp(dim=1)
    _mean_kernel[(triton.cdiv(num_keys, KEYS), batch * heads)](
        logits, denominators, attention, num_keys, group, KEYS=KEYS
    )
    return attention


def _matrices(covariance: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices of a type (B * H * G, parts, D, D) and factors; factor · Σ parts is the covariance."""
    covariance = covariance.flatten(0, 1)
    if dtype == torch.float32:
        return covariance.unsqueeze(1).contiguous(), covariance.new_ones(covariance.shape[0])
    largest = covariance.abs().amax(dim=(1, 2)).clamp_min(1e-30)
    scaled = covariance / largest[:, None, None]  # the largest float16 is 65504
    upper = scaled.to(dtype)
    return torch.stack([upper, (scaled - upper.float()).to(dtype)], dim=1).contiguous(), largest


@triton.jit
def _tile(queries, token, dim, shift, end, head_dim, stride_token, stride_dim):
    """Return queries minus a shift in float32, with zeros outside."""
    inside = (token[:, None] < end) & (dim[None, :] < head_dim)
    tile = tl.load(
        queries + token[:, None].to(tl.int64) * stride_token + dim[None, :] * stride_dim, mask=inside, other=0.0
    )
    return tl.where(inside, tile.to(tl.float32) - shift[None, :], 0.0)


@triton.jit
def _products_kernel(
    queries, means, products, num_tokens, of_split, heads, head_dim,
    query_batch, query_head, query_token, query_dim,
    BLOCKS: tl.constexpr, TOKENS: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute a block of Σ (q - m)(q - m)ᵀ over the tokens of a split, and their mean m."""
    split = tl.program_id(0) // (BLOCKS * BLOCKS)
    block = tl.program_id(0) % (BLOCKS * BLOCKS)
    head = tl.program_id(1).to(tl.int64)
    queries += (head // heads) * query_batch + (head % heads) * query_head
    begin = split * of_split
    end = tl.minimum(begin + of_split, num_tokens)
    row = block // BLOCKS * SIDE + tl.arange(0, SIDE)
    column = block % BLOCKS * SIDE + tl.arange(0, SIDE)

    nothing = tl.zeros((SIDE,), tl.float32)
    first = begin + tl.arange(0, TOKENS)
    count = tl.minimum(end - begin, TOKENS).to(tl.float32)
    shift = tl.sum(_tile(queries, first, row, nothing, end, head_dim, query_token, query_dim), axis=0) / count
    shift_column = shift
    if BLOCKS > 1:
        shift_column = (
            tl.sum(_tile(queries, first, column, nothing, end, head_dim, query_token, query_dim), axis=0) / count
        )
    summed = tl.zeros((TOKENS, SIDE), tl.float32)
    summed_column = tl.zeros((TOKENS, SIDE), tl.float32)
    second = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(begin, end, TOKENS):
        token = start + tl.arange(0, TOKENS)
        left = _tile(queries, token, row, shift, end, head_dim, query_token, query_dim)
        summed += left
        right = left
        if BLOCKS > 1:
            right = _tile(queries, token, column, shift_column, end, head_dim, query_token, query_dim)
            summed_column += right
        second += product(tl.trans(left.to(queries.dtype.element_ty)), right.to(queries.dtype.element_ty), PRECISION)

    total = tl.sum(summed, axis=0)
    total_column = total
    if BLOCKS > 1:
        total_column = tl.sum(summed_column, axis=0)
    count = (end - begin).to(tl.float32)
    second -= total[:, None] * (total_column / count)[None, :]
    place = head * (tl.num_programs(0) // (BLOCKS * BLOCKS)) + split
    if block % BLOCKS == 0:
        tl.store(means + place * head_dim + row, shift + total / count, mask=row < head_dim)
    tl.store(
        products + (place * head_dim + row[:, None]) * head_dim + column[None, :],
        second,
        mask=(row[:, None] < head_dim) & (column[None, :] < head_dim),
    )


@triton.jit
def _join_kernel(
    means, products, mean, covariance, num_tokens, of_split, splits, head_dim,
    BLOCKS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Compute mean and covariance over all splits, which are combined in order."""
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    row = block // BLOCKS * SIDE + tl.arange(0, SIDE)
    column = block % BLOCKS * SIDE + tl.arange(0, SIDE)
    of_all = tl.zeros((SIDE,), tl.float32)
    of_all_column = tl.zeros((SIDE,), tl.float32)
    for split in range(0, splits):
        count = tl.minimum(of_split, num_tokens - split * of_split).to(tl.float32)
        place = (head * splits + split) * head_dim
        of_all += count / num_tokens * tl.load(means + place + row, mask=row < head_dim, other=0.0)
        of_all_column += count / num_tokens * tl.load(means + place + column, mask=column < head_dim, other=0.0)
    inside = (row[:, None] < head_dim) & (column[None, :] < head_dim)
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for split in range(0, splits):
        count = tl.minimum(of_split, num_tokens - split * of_split).to(tl.float32)
        place = (head * splits + split) * head_dim
        off = tl.load(means + place + row, mask=row < head_dim, other=0.0) - of_all
        off_column = tl.load(means + place + column, mask=column < head_dim, other=0.0) - of_all_column
        total += tl.load(products + (place + row[:, None]) * head_dim + column[None, :], mask=inside, other=0.0)
        total += count * off[:, None] * off_column[None, :]
    if block % BLOCKS == 0:
        tl.store(mean + head * head_dim + row, of_all, mask=row < head_dim)
    tl.store(
        covariance + (head * head_dim + row[:, None]) * head_dim + column[None, :], total / num_tokens, mask=inside
    )


@triton.jit
def _logits_kernel(
    keys, linear, matrices, factors, logits, log_sums, num_keys, heads, group, head_dim,
    key_batch, key_head, key_row, key_dim,
    PARTS: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """logits[query head, t] = k·linear + kᵀ(Σ matrices)k · factor, and their log-sum-exp over the tile."""
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys += (head // heads) * key_batch + (head % heads) * key_head
    row = tile * KEYS + tl.arange(0, KEYS)
    rows = keys + row[:, None].to(tl.int64) * key_row
    dim = tl.arange(0, DIM)
    key = tl.load(rows + dim[None, :] * key_dim, mask=(row[:, None] < num_keys) & (dim[None, :] < head_dim), other=0.0)
    blocks: tl.constexpr = DIM // COLUMNS
    found = tl.zeros((KEYS,), tl.float32)
    for step in range(0, group * blocks):  # one loop, which is pipelined
        query_head = head * group + step // blocks
        column = step % blocks * COLUMNS + tl.arange(0, COLUMNS)
        factor = tl.load(linear + query_head * head_dim + column, mask=column < head_dim, other=0.0)
        weight = tl.zeros((KEYS, COLUMNS), tl.float32)
        if PARTS > 0:
            for part in tl.static_range(PARTS):
                matrix = tl.load(
                    matrices + ((query_head * PARTS + part) * head_dim + dim[:, None]) * head_dim + column[None, :],
                    mask=(dim[:, None] < head_dim) & (column[None, :] < head_dim),
                    other=0.0,
                )
                weight += product(key, matrix, PRECISION)
            weight *= tl.load(factors + query_head)
        of_columns = tl.load(
            rows + column[None, :] * key_dim, mask=(row[:, None] < num_keys) & (column[None, :] < head_dim), other=0.0
        )
        of_block = tl.sum(of_columns.to(tl.float32) * (weight + factor[None, :]), axis=1)
        found = tl.where(step % blocks == 0, 0.0, found) + of_block

        last = step % blocks == blocks - 1
        tl.store(logits + query_head * num_keys + row, found, mask=(row < num_keys) & last)
        # Kept as a row: compilers for Blackwell fail if a sum along the rows of a product is summed again.
        seen = tl.reshape(tl.where(row < num_keys, found, -float("inf")), (1, KEYS))
        largest = tl.max(seen)  # finite, since every tile has a key
        log_sum = largest + tl.log(tl.sum(tl.exp(seen - largest)))
        tl.store(log_sums + query_head * tl.num_programs(0) + tile, log_sum, mask=last)


@triton.jit
def _mean_kernel(logits, denominators, attention, num_keys, group, KEYS: tl.constexpr):
    """attention[head, t] = mean over the group of exp(logit - denominator)."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    total = tl.zeros((KEYS,), tl.float32)
    for member in range(0, group):
        query_head = head * group + member
        logit = tl.load(logits + query_head * num_keys + row, mask=row < num_keys, other=-float("inf"))
        total += tl.exp(logit - tl.load(denominators + query_head))
    tl.store(attention + head * num_keys + row, total / group, mask=row < num_keys)
