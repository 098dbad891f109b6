"""Compaction: a running sum over the kept rows gives the place of each; the rows are then read in place, once.

The sum runs over all heads as a single row, which torch scans fastest. int32 is enough, since no GPU has memory for
2^31 rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pikvpress.kernels.compact import reference
from pikvpress.kernels.compact.reference import ALIGNED, Compacted, Packed, check_kept, check_packing
from pikvpress.kernels.packing.reference import codes_in_whole_bytes
from pikvpress.kernels.tiles import padded_size

PLACES = 1024  # flags per program
COPIED = 8192  # numbers per tile
PACKED = 4096  # numbers per tile; fewer, since packing needs more registers


def compact_rows(states: torch.Tensor, kept: torch.Tensor, total: int) -> Compacted:
    """Copy the kept rows of each head into one tensor without gaps; see the reference."""
    check_kept(states, kept)
    _, heads, num_rows, head_dim = states.shape
    rows = torch.empty(total, head_dim, dtype=states.dtype, device=states.device)
    counts = kept.flatten(0, 1).sum(dim=-1)
    if rows.numel() > 0 and kept.numel() > 0:
        dim = padded_size(head_dim)
        tile = max(16, COPIED // dim)
        _copy_kernel[(triton.cdiv(total, tile),)](
            states, _places(kept, total), rows, total, num_rows, heads, head_dim, *states.stride(), ROWS=tile, DIM=dim
        )
    return Compacted(rows, counts, counts.cumsum(0) - counts)


def compact_and_pack(
    states: torch.Tensor, kept: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool
) -> Packed:
    """Pack the kept rows of each head into one buffer; see the reference."""
    check_kept(states, kept)
    check_packing(states, counts, bits, group, along_tokens)
    _, heads, num_rows, head_dim = states.shape
    layout, size = _layout(counts, head_dim, bits, group, along_tokens)
    parts = torch.tensor(layout, dtype=torch.int64, device=states.device).view(3, len(counts))
    buffer = torch.zeros(size, dtype=torch.uint8, device=states.device)
    if size == 0:
        return Packed(buffer, parts[2])
    overflowed = torch.zeros(1, dtype=torch.int32, device=states.device)
    together = triton.next_power_of_2(group)
    if along_tokens:
        tile = {"ROWS": together, "CHANNELS": min(padded_size(head_dim), max(16, PACKED // together))}
        steps = group, tile["CHANNELS"]
    else:
        tile = {"ROWS": max(1, PACKED // max(16, together)), "CHANNELS": max(16, together)}
        steps = tile["ROWS"], group
    grid = triton.cdiv(max(counts), steps[0]), triton.cdiv(head_dim, steps[1]), len(counts)
    _pack_kernel[grid](
        states, _places(kept, sum(counts)), parts, buffer, buffer.view(torch.float16), overflowed,
        num_rows, heads, head_dim, *steps, *states.stride(),
        BITS=bits, UNIT=codes_in_whole_bytes(bits), ALONG_TOKENS=along_tokens, **tile,
    )  # fmt: skip
    if overflowed.item():
        return reference.compact_and_pack(states, kept, counts, bits, group, along_tokens)  # its error says what
    return Packed(buffer, parts[2])


def _places(kept: torch.Tensor, total: int) -> torch.Tensor:
    """Return the indices of the kept rows among all rows of all heads, int32, shape (total,)."""
    running = kept.flatten().cumsum(0, dtype=torch.int32)
    places = torch.zeros(total, dtype=torch.int32, device=kept.device)
    if total > 0:
        _place_kernel[(triton.cdiv(running.numel(), PLACES),)](running, places, running.numel(), total, PLACES=PLACES)
    return places


def _layout(
    counts: Sequence[int], head_dim: int, bits: int, group: int, along_tokens: bool
) -> tuple[list[list[int]], int]:
    """Return each head's count, first row and first byte, and the total number of bytes."""
    first_rows, first_bytes, rows, size = [], [], 0, 0
    for count in counts:
        first_rows.append(rows)
        first_bytes.append(size)
        scales = triton.cdiv(count, group) * head_dim if along_tokens else count * triton.cdiv(head_dim, group)
        rows += count
        size += triton.cdiv(4 * scales + count * head_dim * bits // 8, ALIGNED) * ALIGNED
    return [list(counts), first_rows, first_bytes], size


@triton.jit
def _place_kernel(running, places, num_rows, total, PLACES: tl.constexpr):
    """places[running[i] - 1] = i where the running sum grows."""
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)
    here = tl.load(running + place, mask=place < num_rows, other=0)
    before = tl.load(running + place - 1, mask=(place > 0) & (place < num_rows), other=0)
    tl.store(places + here - 1, place, mask=(here > before) & (here <= total))


@triton.jit
def _offset(places, row, there, num_rows, heads, stride_batch, stride_head, stride_row):
    """Return the offsets of kept rows from the start of the states."""
    place = tl.load(places + row, mask=there, other=0)
    head = (place // num_rows).to(tl.int64)
    position = (place % num_rows).to(tl.int64)
    return (head // heads) * stride_batch + (head % heads) * stride_head + position * stride_row


@triton.jit
def _copy_kernel(
    states, places, rows, total, num_rows, heads, head_dim, stride_batch, stride_head, stride_row, stride_dim,
    ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """rows[i] = the i-th kept row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, DIM)
    offset = _offset(places, row, row < total, num_rows, heads, stride_batch, stride_head, stride_row)
    there = (row[:, None] < total) & (dim[None, :] < head_dim)
    numbers = tl.load(states + offset[:, None] + dim[None, :] * stride_dim, mask=there)
    tl.store(rows + row[:, None].to(tl.int64) * head_dim + dim[None, :], numbers, mask=there)


@triton.jit
def _codes(distance, step, LARGEST: tl.constexpr):
    """Return distances divided by the step, rounded half to even and clamped between 0 and the largest code."""
    exact = tl.where(step > 0, tl.div_rn(distance, tl.maximum(step, 1e-30)), 0.0)
    exact = tl.minimum(tl.maximum(exact, 0.0), LARGEST)
    whole = exact.to(tl.int32)
    rest = exact - whole.to(tl.float32)
    odd = (whole & 1) == 1
    return whole + ((rest > 0.5) | ((rest == 0.5) & odd)).to(tl.int32)


@triton.jit
def _pack_kernel(
    states, places, parts, buffer, scales, overflowed, num_rows, heads, head_dim, row_step, channel_step,
    stride_batch, stride_head, stride_row, stride_dim,
    BITS: tl.constexpr, UNIT: tl.constexpr, ALONG_TOKENS: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the scales, zero points and codes of a tile, which consists of whole groups of a head's kept rows.

    parts : each head's count, first row and first byte. scales : the buffer, viewed as float16.
    """
    part = tl.program_id(2)
    count = tl.load(parts + part)
    if tl.program_id(0) * row_step < count:
        first_row = tl.load(parts + tl.num_programs(2) + part)
        first_byte = tl.multiple_of(tl.load(parts + 2 * tl.num_programs(2) + part), 16)
        row = tl.program_id(0) * row_step + tl.arange(0, ROWS)
        row_there = (tl.arange(0, ROWS) < row_step) & (row < count)
        channel = tl.program_id(1) * channel_step + tl.arange(0, CHANNELS)
        channel_there = (tl.arange(0, CHANNELS) < channel_step) & (channel < head_dim)
        there = row_there[:, None] & channel_there[None, :]
        offset = _offset(places, first_row + row, row_there, num_rows, heads, stride_batch, stride_head, stride_row)
        number = tl.load(
            states + offset[:, None] + channel[None, :].to(tl.int64) * stride_dim, mask=there, other=0.0
        ).to(tl.float32)

        axis: tl.constexpr = 0 if ALONG_TOKENS else 1
        lowest = tl.min(tl.where(there, number, float("inf")), axis=axis, keep_dims=True)
        highest = tl.max(tl.where(there, number, -float("inf")), axis=axis, keep_dims=True)
        largest: tl.constexpr = 2**BITS - 1
        zero = lowest.to(tl.float16)
        scale = tl.div_rn(highest - zero.to(tl.float32), largest * 1.0).to(tl.float16)
        code = _codes(number - zero.to(tl.float32), scale.to(tl.float32), largest)

        if ALONG_TOKENS:
            num_scales = ((count + row_step - 1) // row_step) * head_dim
            target = (tl.program_id(0).to(tl.int64) * head_dim + channel)[None, :]
            scale_there = channel_there[None, :]
        else:
            per_row = (head_dim + channel_step - 1) // channel_step
            num_scales = count * per_row
            target = (row.to(tl.int64) * per_row + tl.program_id(1))[:, None]
            scale_there = row_there[:, None]
        tl.store(scales + first_byte // 2 + target, scale, mask=scale_there)
        tl.store(scales + first_byte // 2 + num_scales + target, zero, mask=scale_there)
        bad = (tl.abs(zero.to(tl.float32)) == float("inf")) | (tl.abs(scale.to(tl.float32)) == float("inf"))
        bad = (bad & scale_there).to(tl.int32)
        unordered = (there & (number != number)).to(tl.int32)  # minima and maxima ignore NaN
        if tl.sum(tl.sum(bad, axis=1), axis=0) + tl.sum(tl.sum(unordered, axis=1), axis=0) > 0:
            tl.store(overflowed, 1)

        in_word = tl.arange(0, UNIT)
        split = tl.reshape(code, (ROWS, CHANNELS // UNIT, UNIT))
        word = tl.sum(split << (BITS * in_word)[None, None, :], axis=2)
        column = tl.program_id(1) * (channel_step // UNIT) + tl.arange(0, CHANNELS // UNIT)
        column_there = (tl.arange(0, CHANNELS // UNIT) < channel_step // UNIT) & (column < head_dim // UNIT)
        size: tl.constexpr = UNIT * BITS // 8
        row_bytes = head_dim // UNIT * size
        first_byte += 4 * num_scales + tl.program_id(0).to(tl.int64) * row_step * row_bytes
        target = tl.arange(0, ROWS)[:, None] * row_bytes + column[None, :] * size
        for byte in tl.static_range(size):
            tl.store(
                buffer + first_byte + (target + byte),
                ((word >> (8 * byte)) & 255).to(tl.uint8),
                mask=row_there[:, None] & column_there[None, :],
            )
