"""Measured copy and multiplication speed of a device, as a lower bound on the time of an operation."""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.kernels.operation import Work
from benchmarks.kernels.timing import time_calls


class Speed(NamedTuple):
    """Measured limits of a device.

    Attributes
    ----------
    bytes_per_ms : float
        Bytes read and written by a large copy.
    flops_per_ms : float
        Operations of a large matrix product in the given dtype.
    """

    bytes_per_ms: float
    flops_per_ms: float

    def floor(self, work: Work) -> float:
        """Return the minimum milliseconds for some work."""
        return max(work.bytes / self.bytes_per_ms, work.flops / self.flops_per_ms)


def measure_speed(dtype: torch.dtype, device: str) -> Speed:
    """Measure a device."""
    size, side = (2**30, 8192) if device == "cuda" else (2**27, 1024)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = time_calls(lambda: target.copy_(source), [{}], 10, device).median
    matrix = torch.randn(side, side, device=device).to(dtype)
    multiplied = time_calls(torch.mm, [{"input": matrix, "mat2": matrix}], 10, device).median
    return Speed(2 * size / copied, 2 * side**3 / multiplied)
