"""Loops that find and pack the codes of rotated vectors on a CPU, compiled when this module is imported."""

from __future__ import annotations

import numpy as np

from pikvpress.kernels.compiling import compiled
from pikvpress.kernels.packing.loops import pack_row
from pikvpress.kernels.rotation.reference import LEVELS

UPPER = {bits: np.array(levels[len(levels) // 2 :], dtype=np.float32) for bits, levels in LEVELS.items()}
TINY = np.finfo(np.float32).tiny


@compiled("void(float32[:, ::1], float32[::1], float64, int64, int64, int64, uint8[:, ::1], float32[::1])")
def pack_levels(states, upper, length, bits, first, last, packed, scales):
    """Find the codes and the scale of rows from a first to a last one.

    Parameters
    ----------
    states : array
        float32, shape (n, d).
    upper : array
        The positive levels, ascending.
    length : float
        As in the reference.
    bits : int
        Bits per code.
    first, last : int
        Rows, the last one excluded.
    packed, scales : array
        Written: uint8, shape (n, d · bits / 8); float32, shape (n,).
    """
    width, half, flipped = states.shape[1], len(upper), np.uint8(2**bits - 1)
    codes, nearest = np.empty(width, np.uint8), np.empty(width, np.float32)
    for row in range(first, last):
        numbers = states[row]
        total = np.float32(0.0)
        for channel in range(width):
            total += numbers[channel] * numbers[channel]
        size = np.sqrt(total / np.float32(width))
        one = max(size, TINY)  # all numbers and levels are compared at the size of this vector
        for channel in range(width):
            codes[channel], nearest[channel] = half, upper[0]
        for i in range(half - 1):
            border, more = (upper[i] + upper[i + 1]) / np.float32(2.0) * one, upper[i + 1] - upper[i]
            for channel in range(width):
                above = abs(numbers[channel]) > border
                codes[channel] += above
                nearest[channel] += more if above else np.float32(0.0)
        along, squares = np.float32(0.0), np.float32(0.0)
        for channel in range(width):
            along += abs(numbers[channel]) * nearest[channel]
            squares += nearest[channel] * nearest[channel]
            codes[channel] ^= flipped if numbers[channel] <= np.float32(0.0) else np.uint8(0)
        along /= one
        unit = size / one  # 1, or 0 if all numbers are
        least, most = along / squares, unit * unit * np.float32(width) / max(along, np.float32(1e-30))
        scales[row] = size * least ** (1.0 - length) * most**length
        pack_row(codes, bits, packed[row])
