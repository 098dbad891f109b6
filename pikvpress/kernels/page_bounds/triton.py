"""Bounds of pages in one pass over the keys, and scores in one pass over the bounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pikvpress.kernels.page_bounds.reference import check_page, check_pages
from pikvpress.kernels.tiles import padded_size, precision, product

NUMBERS = 2048  # per tile of bounds; one key of each page is read at a time


def page_bounds(keys: torch.Tensor, page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the minimum and maximum of each channel of each page; see the reference."""
    check_page(page)
    batch, heads, num_keys, head_dim = keys.shape
    num_pages = triton.cdiv(num_keys, page)
    lowest = torch.empty(batch, heads, num_pages, head_dim, dtype=keys.dtype, device=keys.device)
    highest = torch.empty_like(lowest)
    if lowest.numel() == 0:
        return lowest, highest
    dim = padded_size(head_dim)
    pages = max(1, NUMBERS // dim)
    _bounds_kernel[(triton.cdiv(num_pages, pages), batch * heads)](
        keys, lowest, highest, num_keys, num_pages, page, heads, head_dim, *keys.stride(), PAGES=pages, DIM=dim
    )
    return lowest, highest


def page_scores(queries: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Return an upper bound of the product of a query and any key of a page; see the reference."""
    check_pages(queries, lowest, highest)
    batch, heads, num_pages, head_dim = lowest.shape
    group, num_queries = queries.shape[1] // heads, queries.shape[2]
    scores = torch.empty(batch, heads, num_queries, num_pages, dtype=torch.float32, device=queries.device)
    if scores.numel() == 0:
        return scores
    dim = padded_size(head_dim)
    pages = 64 if dim <= 128 else 64 // queries.element_size()
    rows = 64 if num_queries > 16 and queries.element_size() == 2 else 16
    _score_kernel[(triton.cdiv(num_pages, pages), triton.cdiv(num_queries, rows), batch * heads)](
        queries, lowest, highest, scores, num_queries, num_pages, group, heads, head_dim,
        *queries.stride(), *lowest.stride(), *highest.stride(),
        ROWS=rows, PAGES=pages, DIM=dim, PRECISION=precision(queries),
    )  # fmt: skip
    return scores


@triton.jit
def _bounds_kernel(
    keys, lowest, highest, num_keys, num_pages, page, heads, head_dim, key_batch, key_head, key_row, key_dim,
    PAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """lowest[head, page] = min k and highest[head, page] = max k over the keys of a page."""
    head = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * PAGES + tl.arange(0, PAGES)
    dim = tl.arange(0, DIM)
    keys += (head // heads) * key_batch + (head % heads) * key_head + dim[None, :] * key_dim
    low = tl.full((PAGES, DIM), float("inf"), tl.float32)
    high = tl.full((PAGES, DIM), -float("inf"), tl.float32)
    for place in range(0, page):
        row = number * page + place
        there = (row[:, None] < num_keys) & (dim[None, :] < head_dim)
        key = tl.load(keys + row[:, None].to(tl.int64) * key_row, mask=there, other=0.0).to(tl.float32)
        low = tl.minimum(low, tl.where(there, key, float("inf")))
        high = tl.maximum(high, tl.where(there, key, -float("inf")))
    target = (head * num_pages + number)[:, None] * head_dim + dim[None, :]
    there = (number[:, None] < num_pages) & (dim[None, :] < head_dim)
    tl.store(lowest + target, low.to(lowest.dtype.element_ty), mask=there)
    tl.store(highest + target, high.to(highest.dtype.element_ty), mask=there)


@triton.jit
def _transposed(bounds, number, num_pages, head_dim, stride_page, stride_dim, DIM: tl.constexpr):
    dim = tl.arange(0, DIM)
    return tl.load(
        bounds + number[None, :].to(tl.int64) * stride_page + dim[:, None] * stride_dim,
        mask=(number[None, :] < num_pages) & (dim[:, None] < head_dim),
        other=0.0,
    )


@triton.jit
def _score_kernel(
    queries, lowest, highest, scores, num_queries, num_pages, group, heads, head_dim,
    query_batch, query_head, query_row, query_dim,
    low_batch, low_head, low_page, low_dim, high_batch, high_head, high_page, high_dim,
    ROWS: tl.constexpr, PAGES: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """scores[head, q, page] = max over a group of q⁺ · highest[page] + q⁻ · lowest[page]."""
    head = tl.program_id(2).to(tl.int64)
    number = tl.program_id(0) * PAGES + tl.arange(0, PAGES)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    lowest += (head // heads) * low_batch + (head % heads) * low_head
    highest += (head // heads) * high_batch + (head % heads) * high_head
    low = _transposed(lowest, number, num_pages, head_dim, low_page, low_dim, DIM)
    high = _transposed(highest, number, num_pages, head_dim, high_page, high_dim, DIM)
    queries += (head // heads) * query_batch + (head % heads) * group * query_head
    queries += row[:, None].to(tl.int64) * query_row + dim[None, :] * query_dim
    largest = tl.full((ROWS, PAGES), -float("inf"), tl.float32)
    for _ in range(0, group):
        query = tl.load(queries, mask=(row[:, None] < num_queries) & (dim[None, :] < head_dim), other=0.0)
        up = tl.where(query > 0, query, 0.0).to(query.dtype)
        down = tl.where(query < 0, query, 0.0).to(query.dtype)
        largest = tl.maximum(largest, product(up, high, PRECISION) + product(down, low, PRECISION))
        queries += query_head
    target = (head * num_queries + row)[:, None] * num_pages + number[None, :]
    tl.store(scores + target, largest, mask=(row[:, None] < num_queries) & (number[None, :] < num_pages))
