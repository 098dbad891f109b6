"""Tiles of keys and values as numbers, read from whatever they are stored as.

BITS is that of a number: 0 for exact ones, `plan.ROTATED` more for rotated ones, -1 (`plan.ANY`) where each part
has its own, which is then told at run time. Codes, scales and zero points are addresses. What lies beyond a part is 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pikvpress.kernels.ragged_attention import plan
from pikvpress.kernels.rotation import LEVELS

ROTATED = tl.constexpr(plan.ROTATED)
UPPER_1, UPPER_2, UPPER_3, UPPER_4 = (tl.constexpr(LEVELS[bits][2 ** (bits - 1) :]) for bits in (1, 2, 3, 4))


@triton.jit
def key_tile(
    codes, scales, zeros, lead, row_bytes, width, bits, block, start, last,
    BITS: tl.constexpr, DTYPE: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Return the stored channels of keys from `start` on, shape (ENTRIES, DIM), which must be of one group."""
    if BITS == 0:
        numbers = _exact(codes, row_bytes, width, start, last, DTYPE, ENTRIES, DIM)
    elif BITS > ROTATED:
        numbers = _rotated_keys(
            codes, scales, zeros, lead, row_bytes, width, bits, block, start, last, BITS - ROTATED, ENTRIES, DIM
        )
    elif BITS > 0:
        numbers = _packed_keys(codes, scales, zeros, row_bytes, width, bits, start, last, BITS, ENTRIES, DIM, GROUP)
    else:
        if bits == 0:
            numbers = _exact(codes, row_bytes, width, start, last, DTYPE, ENTRIES, DIM).to(tl.float32)
        elif bits > ROTATED:
            numbers = _rotated_keys(
                codes, scales, zeros, lead, row_bytes, width, bits - ROTATED, block, start, last, BITS, ENTRIES, DIM
            )
        else:
            numbers = _packed_keys(codes, scales, zeros, row_bytes, width, bits, start, last, BITS, ENTRIES, DIM, GROUP)
    return numbers.to(DTYPE)


@triton.jit
def value_tile(
    codes, scales, zeros, lead, row_bytes, width, bits, start, last,
    BITS: tl.constexpr, DTYPE: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Return values from `start` on, shape (ENTRIES, DIM)."""
    if BITS == 0:
        numbers = _exact(codes, row_bytes, width, start, last, DTYPE, ENTRIES, DIM)
    elif BITS > ROTATED:
        numbers = _rotated_values(
            codes, scales, lead, row_bytes, width, bits, start, last, BITS - ROTATED, ENTRIES, DIM
        )
    elif BITS > 0:
        numbers = _packed_values(codes, scales, zeros, row_bytes, width, bits, start, last, BITS, ENTRIES, DIM, GROUP)
    else:
        if bits == 0:
            numbers = _exact(codes, row_bytes, width, start, last, DTYPE, ENTRIES, DIM).to(tl.float32)
        elif bits > ROTATED:
            numbers = _rotated_values(
                codes, scales, lead, row_bytes, width, bits - ROTATED, start, last, BITS, ENTRIES, DIM
            )
        else:
            numbers = _packed_values(
                codes, scales, zeros, row_bytes, width, bits, start, last, BITS, ENTRIES, DIM, GROUP
            )
    return numbers.to(DTYPE)


@triton.jit
def _exact(codes, row_bytes, width, start, last, DTYPE: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    entry = start + tl.arange(0, ENTRIES)
    channel = tl.arange(0, DIM)
    rows = _rows(codes, row_bytes, start, ENTRIES).to(tl.pointer_type(DTYPE))
    return tl.load(
        rows[:, None] + channel[None, :], mask=(entry[:, None] < last) & (channel[None, :] < width), other=0.0
    )


@triton.jit
def _rows(codes, row_bytes, start, ENTRIES: tl.constexpr):
    """Return the first byte of each row."""
    return codes + row_bytes.to(tl.int64) * start + tl.arange(0, ENTRIES) * row_bytes


@triton.jit
def _packed_keys(
    codes, scales, zeros, row_bytes, width, bits, start, last,
    BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, DIM)
    place = start // GROUP * width + channel
    scale = tl.load(scales.to(tl.pointer_type(tl.float16)) + place, mask=channel < width, other=0.0)
    zero = tl.load(zeros.to(tl.pointer_type(tl.float16)) + place, mask=channel < width, other=0.0)
    unpacked = _codes(codes, row_bytes, bits, start, last, BITS, ENTRIES, DIM).to(tl.float32)
    return unpacked * scale.to(tl.float32)[None, :] + zero.to(tl.float32)[None, :]


@triton.jit
def _packed_values(
    codes, scales, zeros, row_bytes, width, bits, start, last,
    BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = DIM // GROUP if DIM > GROUP else 1
    groups = (width + GROUP - 1) // GROUP
    entry = start + tl.arange(0, ENTRIES)
    group = tl.arange(0, GROUPS)
    place = entry.to(tl.int64)[:, None] * groups + group[None, :]
    there = (entry[:, None] < last) & (group[None, :] < groups)
    scale = tl.load(scales.to(tl.pointer_type(tl.float16)) + place, mask=there, other=0.0)
    zero = tl.load(zeros.to(tl.pointer_type(tl.float16)) + place, mask=there, other=0.0)
    unpacked = _codes(codes, row_bytes, bits, start, last, BITS, ENTRIES, DIM).to(tl.float32)
    grouped = tl.reshape(unpacked, (ENTRIES, GROUPS, DIM // GROUPS))
    grouped = grouped * scale.to(tl.float32)[:, :, None] + zero.to(tl.float32)[:, :, None]
    return tl.reshape(grouped, (ENTRIES, DIM))


@triton.jit
def _rotated_keys(
    codes, scales, means, lead, row_bytes, width, bits, block, start, last,
    BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    channel = tl.arange(0, DIM)
    place = start // block * width + channel
    mean = tl.load(means.to(tl.pointer_type(tl.float16)) + place, mask=channel < width, other=0.0)
    centred = _levels(codes, scales, row_bytes, bits, start, last, BITS, ENTRIES, DIM)
    return _with_lead(centred + mean.to(tl.float32)[None, :], lead, width, start, ENTRIES, DIM)


@triton.jit
def _rotated_values(
    codes, scales, lead, row_bytes, width, bits, start, last,
    BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    numbers = _levels(codes, scales, row_bytes, bits, start, last, BITS, ENTRIES, DIM)
    return _with_lead(numbers, lead, width, start, ENTRIES, DIM)


@triton.jit
def _with_lead(numbers, lead, width, start, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    """Return a tile whose first row is replaced if it is the first of its part, and that is kept as it is."""
    channel = tl.arange(0, DIM)
    is_there = (start == 0) & (lead != 0)
    row = tl.load(lead.to(tl.pointer_type(tl.float16)) + channel, mask=is_there & (channel < width), other=0.0)
    is_first = is_there & (tl.arange(0, ENTRIES) == 0)
    return tl.where(is_first[:, None], row.to(tl.float32)[None, :], numbers)


@triton.jit
def _levels(codes, scales, row_bytes, bits, start, last, BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    """Return the levels of rotated codes times their scales, float32, shape (ENTRIES, DIM)."""
    entry = start + tl.arange(0, ENTRIES)
    scale = tl.load(scales.to(tl.pointer_type(tl.float16)) + entry, mask=entry < last, other=0.0)
    rows = _rows(codes, row_bytes, start, ENTRIES)
    left = last - start
    if BITS == 4:
        levels = _levels_4(_unpacked_4(rows, row_bytes, left, ENTRIES, DIM))
    elif BITS == 3:
        levels = _levels_3(_unpacked_3(rows, row_bytes, left, ENTRIES, DIM))
    elif BITS == 2:
        levels = _levels_2(_unpacked_2(rows, row_bytes, left, ENTRIES, DIM))
    elif BITS == 1:
        levels = _levels_1(_unpacked_1(rows, row_bytes, left, ENTRIES, DIM))
    else:
        if bits == 4:
            levels = _levels_4(_unpacked_4(rows, row_bytes, left, ENTRIES, DIM))
        elif bits == 3:
            levels = _levels_3(_unpacked_3(rows, row_bytes, left, ENTRIES, DIM))
        elif bits == 2:
            levels = _levels_2(_unpacked_2(rows, row_bytes, left, ENTRIES, DIM))
        else:
            levels = _levels_1(_unpacked_1(rows, row_bytes, left, ENTRIES, DIM))
    return levels * scale.to(tl.float32)[:, None]


@triton.jit
def _codes(codes, row_bytes, bits, start, last, BITS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    """Return codes, uint8, shape (ENTRIES, DIM)."""
    rows = _rows(codes, row_bytes, start, ENTRIES)
    left = last - start
    if BITS == 8:
        unpacked = _bytes(rows, 0, row_bytes, left, 1, ENTRIES, DIM)
    elif BITS == 4:
        unpacked = _unpacked_4(rows, row_bytes, left, ENTRIES, DIM)
    elif BITS == 3:
        unpacked = _unpacked_3(rows, row_bytes, left, ENTRIES, DIM)
    elif BITS == 2:
        unpacked = _unpacked_2(rows, row_bytes, left, ENTRIES, DIM)
    else:
        if bits == 8:
            unpacked = _bytes(rows, 0, row_bytes, left, 1, ENTRIES, DIM)
        elif bits == 4:
            unpacked = _unpacked_4(rows, row_bytes, left, ENTRIES, DIM)
        elif bits == 3:
            unpacked = _unpacked_3(rows, row_bytes, left, ENTRIES, DIM)
        else:
            unpacked = _unpacked_2(rows, row_bytes, left, ENTRIES, DIM)
    return unpacked


@triton.jit
def _bytes(rows, first, row_bytes, left, STEP: tl.constexpr, ENTRIES: tl.constexpr, BYTES: tl.constexpr):
    """Return every so many bytes of each row, from the first one on."""
    place = first + tl.arange(0, BYTES) * STEP
    there = (tl.arange(0, ENTRIES)[:, None] < left) & (place[None, :] < row_bytes)
    return tl.load(rows[:, None] + place[None, :], mask=there, other=0)


@triton.jit
def _unpacked_4(rows, row_bytes, left, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    pair = _bytes(rows, 0, row_bytes, left, 1, ENTRIES, DIM // 2)
    return tl.interleave(pair & 15, pair >> 4)


@triton.jit
def _unpacked_2(rows, row_bytes, left, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    four = _bytes(rows, 0, row_bytes, left, 1, ENTRIES, DIM // 4)
    even = tl.interleave(four & 3, (four >> 4) & 3)
    odd = tl.interleave((four >> 2) & 3, four >> 6)
    return tl.interleave(even, odd)


@triton.jit
def _unpacked_3(rows, row_bytes, left, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    """Eight codes lie in three bytes."""
    low = _bytes(rows, 0, row_bytes, left, 3, ENTRIES, DIM // 8).to(tl.int32)
    middle = _bytes(rows, 1, row_bytes, left, 3, ENTRIES, DIM // 8).to(tl.int32)
    high = _bytes(rows, 2, row_bytes, left, 3, ENTRIES, DIM // 8).to(tl.int32)
    word = low | (middle << 8) | (high << 16)
    even = tl.interleave(
        tl.interleave((word & 7).to(tl.uint8), ((word >> 12) & 7).to(tl.uint8)),
        tl.interleave(((word >> 6) & 7).to(tl.uint8), ((word >> 18) & 7).to(tl.uint8)),
    )
    odd = tl.interleave(
        tl.interleave(((word >> 3) & 7).to(tl.uint8), ((word >> 15) & 7).to(tl.uint8)),
        tl.interleave(((word >> 9) & 7).to(tl.uint8), ((word >> 21) & 7).to(tl.uint8)),
    )
    return tl.interleave(even, odd)


@triton.jit
def _unpacked_1(rows, row_bytes, left, ENTRIES: tl.constexpr, DIM: tl.constexpr):
    eight = _bytes(rows, 0, row_bytes, left, 1, ENTRIES, DIM // 8)
    even = tl.interleave(tl.interleave(eight & 1, (eight >> 4) & 1), tl.interleave((eight >> 2) & 1, (eight >> 6) & 1))
    odd = tl.interleave(tl.interleave((eight >> 1) & 1, (eight >> 5) & 1), tl.interleave((eight >> 3) & 1, eight >> 7))
    return tl.interleave(even, odd)


# A level is chosen by the bits of its code; a gather from a table would take a load for every number.


@triton.jit
def _levels_1(code):
    return tl.where(code != 0, UPPER_1[0], -UPPER_1[0])


@triton.jit
def _levels_2(code):
    outer = tl.where((code & 2) != 0, code & 1, 1 - (code & 1)) != 0
    size = tl.where(outer, UPPER_2[1], UPPER_2[0])
    return tl.where((code & 2) != 0, size, -size)


@triton.jit
def _levels_3(code):
    place = tl.where((code & 4) != 0, code & 3, 3 - (code & 3))
    size = _one_of(place, UPPER_3[0], UPPER_3[1], UPPER_3[2], UPPER_3[3])
    return tl.where((code & 4) != 0, size, -size)


@triton.jit
def _levels_4(code):
    place = tl.where((code & 8) != 0, code & 7, 7 - (code & 7))
    low = _one_of(place, UPPER_4[0], UPPER_4[1], UPPER_4[2], UPPER_4[3])
    high = _one_of(place, UPPER_4[4], UPPER_4[5], UPPER_4[6], UPPER_4[7])
    size = tl.where((place & 4) != 0, high, low)
    return tl.where((code & 8) != 0, size, -size)


@triton.jit
def _one_of(place, first, second, third, fourth):
    """Return one of four numbers, by the two lowest bits of a place."""
    odd = (place & 1) != 0
    return tl.where((place & 2) != 0, tl.where(odd, fourth, third), tl.where(odd, second, first))
