"""Comparison of the models' outputs in two passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.kvpress_suite.records import Forward

# Masked keys and removed keys agree to about 1e-5 of the largest number in float32; only the order of sums differs. One
# entry more or fewer changes some number by a hundred times that.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Deviation:
    """Deviation between the outputs of two passes.

    Parameters
    ----------
    forward : int
        The first forward, or reading of a remaining cache, with too large a difference; -1 if there is none.
    size : float
        Largest deviation there, otherwise anywhere, relative to the largest number of that forward or 1.
    why : str
        What differs; empty if nothing does.
    """

    forward: int
    size: float
    why: str = ""


def deviation(here: Sequence[Forward], there: Sequence[Forward]) -> Deviation:
    """Return the deviation from another pass. After the first difference everything may differ."""
    largest = 0.0
    for index, (one, other) in enumerate(zip(here, there, strict=False)):
        if (one.shape, one.dtype, one.probe) != (other.shape, other.dtype, other.probe):
            return Deviation(index, math.inf, f"the model is given {one.shape}, there {other.shape}")
        size = _distance(one.numbers, other.numbers)
        if size > TOLERANCE[one.dtype]:
            return Deviation(index, size, "a cache reads differently" if one.probe else "the model puts out others")
        largest = max(largest, size)
    if len(here) != len(there):
        return Deviation(min(len(here), len(there)), math.inf, f"{len(here)} forwards, there {len(there)}")
    return Deviation(-1, largest)


def _distance(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest difference, relative to the largest number or 1; non-finite numbers must agree."""
    scale, largest = 1.0, 0.0
    for one, other in zip(ones, others, strict=True):
        if math.isfinite(one) and math.isfinite(other):
            scale, largest = max(scale, abs(other)), max(largest, abs(one - other))
        elif repr(one) != repr(other):
            return math.inf
    return largest / scale
