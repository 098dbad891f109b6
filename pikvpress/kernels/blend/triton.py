"""Ranks from one sort: torch sorts, and a kernel finds the ends of each run of equal scores and scatters its mean rank.

The ends are found by a search in the whole sorted row, since a run may be longer than a tile. Tiles without equal
scores skip the search.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 1024  # scores per program


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return each score's rank within its head, from 0 to 1; see the reference."""
    ranked = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    if ranked.numel() == 0:
        return ranked
    length = scores.shape[-1]
    ordered, order = scores.contiguous().sort(dim=-1)
    _rank_kernel[_grid(ranked)](ordered, order, ranked, length, length.bit_length(), _highest(length), TILE=TILE)
    return ranked


def blend(ranked: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the experts' ranks; see the reference."""
    batch, heads, experts, length = ranked.shape
    blended = torch.empty(batch, heads, length, dtype=torch.float32, device=ranked.device)
    if blended.numel() > 0:
        _blend_kernel[_grid(blended)](
            ranked, weights, blended, experts, length, heads, *ranked.stride(), *weights.stride(), TILE=TILE
        )
    return blended


def blended_ranks(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the experts' ranks without storing the ranks; see the reference."""
    batch, heads, experts, length = scores.shape
    blended = torch.zeros(batch, heads, length, dtype=torch.float32, device=scores.device)
    if blended.numel() == 0:
        return blended
    for expert in range(experts):  # in turn: an arbitrary order of summation would separate keys of equal rank
        ordered, order = scores[:, :, expert].contiguous().sort(dim=-1)
        _add_kernel[_grid(blended)](
            ordered, order, weights[:, :, expert].contiguous(), blended, length, length.bit_length(),
            _highest(length), TILE=TILE,
        )  # fmt: skip
    return blended


def _grid(result: torch.Tensor) -> tuple[int]:
    """Return the number of programs, one dimension of them: the others of a grid end at 65,535."""
    length = result.shape[-1]
    return (triton.cdiv(length, TILE) * (result.numel() // length),)


def _highest(length: int) -> float:
    """Return the largest possible sum of the first and last places of a run."""
    return 2.0 * max(1, length - 1)


@triton.jit
def _row_and_place(length, TILE: tl.constexpr):
    """Return a program's row, and its places in the row."""
    tiles = tl.cdiv(length, TILE)
    return (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)


@triton.jit
def _mean_rank(ordered, place, length, steps, highest):
    """Return the mean rank of the run of equal scores around each place of a sorted row.

    steps : how often to halve the row until one place is left.
    """
    inside = place < length
    score = tl.load(ordered + place, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(ordered + place - 1, mask=inside & (place > 0), other=0.0).to(tl.float32)
    after = tl.load(ordered + place + 1, mask=place + 1 < length, other=0.0).to(tl.float32)
    runs_before = inside & (place > 0) & (before == score)
    runs_after = (place + 1 < length) & (after == score)
    first_low, first_high = tl.where(runs_before, 0, place), place
    last_low, last_high = place, tl.where(runs_after, length - 1, place)
    if tl.max((runs_before | runs_after).to(tl.int32), axis=0) > 0:
        for _ in range(steps):
            middle = (first_low + first_high) // 2
            open_ = first_low < first_high
            lower = tl.load(ordered + middle, mask=open_, other=0.0).to(tl.float32) < score
            first_low = tl.where(open_ & lower, middle + 1, first_low)
            first_high = tl.where(open_ & (lower == 0), middle, first_high)
            middle = (last_low + last_high + 1) // 2
            open_ = last_low < last_high
            higher = tl.load(ordered + middle, mask=open_, other=0.0).to(tl.float32) > score
            last_low = tl.where(open_ & (higher == 0), middle, last_low)
            last_high = tl.where(open_ & higher, middle - 1, last_high)
    return tl.div_rn((first_low + last_low).to(tl.float32), highest)


@triton.jit
def _rank_kernel(ordered, order, ranked, length, steps, highest, TILE: tl.constexpr):
    """ranked[row, order[row, place]] = mean rank of the score at that place."""
    row, place = _row_and_place(length, TILE)
    row *= length
    rank = _mean_rank(ordered + row, place, length, steps, highest)
    source = tl.load(order + row + place, mask=place < length, other=0)
    tl.store(ranked + row + source, rank, mask=place < length)


@triton.jit
def _add_kernel(ordered, order, weights, blended, length, steps, highest, TILE: tl.constexpr):
    """blended[row, order[row, place]] += weights[row] · mean rank of the score at that place."""
    row, place = _row_and_place(length, TILE)
    weight = tl.load(weights + row).to(tl.float32)
    if weight != 0:
        row *= length
        rank = _mean_rank(ordered + row, place, length, steps, highest)
        source = tl.load(order + row + place, mask=place < length, other=0)
        total = tl.load(blended + row + source, mask=place < length, other=0.0)
        tl.store(blended + row + source, total + weight * rank, mask=place < length)


@triton.jit
def _blend_kernel(
    ranked, weights, blended, experts, length, heads,
    rank_batch, rank_head, rank_expert, rank_place, weight_batch, weight_head, weight_expert, TILE: tl.constexpr,
):  # fmt: skip
    """blended[head, t] = Σ_e weights[head, e] · ranked[head, e, t]."""
    row, place = _row_and_place(length, TILE)
    ranked += (row // heads) * rank_batch + (row % heads) * rank_head
    weights += (row // heads) * weight_batch + (row % heads) * weight_head
    total = tl.zeros((TILE,), tl.float32)
    ranked += place.to(tl.int64) * rank_place
    for _ in range(0, experts):
        weight = tl.load(weights).to(tl.float32)
        if weight != 0:
            total += weight * tl.load(ranked, mask=place < length, other=0.0).to(tl.float32)
        ranked += rank_expert
        weights += weight_expert
    tl.store(blended + row * length + place, total, mask=place < length)
