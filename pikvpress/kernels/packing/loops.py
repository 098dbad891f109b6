"""Loops that quantise and pack rows on a CPU, compiled when this module is imported."""

from __future__ import annotations

import numpy as np

from pikvpress.kernels.compiling import compiled

ARGUMENTS = "void(float32[:, ::1], float32[:, ::1], float32[:, ::1], int64, int64, int64, int64, uint8[:, ::1])"


@compiled()
def pack_row(codes, bits, packed):
    """Write codes side by side, the first in the lowest bits."""
    if bits == 8:
        for i in range(packed.shape[0]):
            packed[i] = codes[i]
    elif bits == 4:
        for i in range(packed.shape[0]):
            packed[i] = codes[2 * i] | codes[2 * i + 1] << 4
    elif bits == 2:
        for i in range(packed.shape[0]):
            packed[i] = codes[4 * i] | codes[4 * i + 1] << 2 | codes[4 * i + 2] << 4 | codes[4 * i + 3] << 6
    elif bits == 3:
        for i in range(packed.shape[0] // 3):
            word = 0
            for j in range(8):
                word |= np.int64(codes[8 * i + j]) << 3 * j
            packed[3 * i], packed[3 * i + 1], packed[3 * i + 2] = word & 255, word >> 8 & 255, word >> 16
    else:
        for i in range(packed.shape[0]):
            word = 0
            for j in range(8):
                word |= np.int64(codes[8 * i + j]) << j
            packed[i] = word


@compiled(fastmath=False)
def _code(number, step, zero, largest):
    """Return the code of a number, by the very operations of the reference."""
    code = np.rint((number - zero) / max(step, np.float32(1e-30)))
    code = min(max(code, np.float32(0.0)), largest)
    return np.uint8(np.int32(code)) if step > np.float32(0.0) else np.uint8(0)


@compiled(ARGUMENTS, fastmath=False)
def pack_keys(states, scales, zeros, group, bits, first, last, packed):
    """Pack rows from a first to a last one whose channels have a scale for each group of rows.

    Parameters
    ----------
    states : array
        float32, shape (n, d).
    scales, zeros : array
        float32, shape (groups, d).
    group : int
        Rows of a group.
    bits : int
        Bits per code.
    first, last : int
        Rows to pack, the last one excluded.
    packed : array
        Written: uint8, shape (n, d · bits / 8).
    """
    width, largest = states.shape[1], np.float32(2**bits - 1)
    codes = np.empty(width, np.uint8)
    for row in range(first, last):
        numbers, scale, zero = states[row], scales[row // group], zeros[row // group]
        for channel in range(width):
            codes[channel] = _code(numbers[channel], scale[channel], zero[channel], largest)
        pack_row(codes, bits, packed[row])


@compiled(ARGUMENTS, fastmath=False)
def pack_values(states, scales, zeros, group, bits, first, last, packed):
    """Pack rows as `pack_keys` does, of which each has a scale for each group of channels, shape (n, groups)."""
    width, largest = states.shape[1], np.float32(2**bits - 1)
    codes = np.empty(width, np.uint8)
    for row in range(first, last):
        numbers = states[row]
        for number in range(scales.shape[1]):
            scale, zero = scales[row, number], zeros[row, number]
            for channel in range(number * group, min((number + 1) * group, width)):
                codes[channel] = _code(numbers[channel], scale, zero, largest)
        pack_row(codes, bits, packed[row])
