"""Helpers that several kernels share."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl


def padded_size(size: int, least: int = 16) -> int:
    """Return the power of two to which a tile's dimension is padded, at least the smallest a matrix product takes."""
    return max(least, triton.next_power_of_2(size))


def precision(tensor: torch.Tensor) -> str:
    """Return how `product` multiplies numbers of a tensor's type.

    float32 is multiplied at full precision, not as TF32, which drops the last 13 bits. Triton's interpreter does not
    support bfloat16, so there it is multiplied as float32.
    """
    if tensor.dtype == torch.float32:
        return "ieee"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return "widened" if interpreted and tensor.dtype == torch.bfloat16 else "tf32"


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """Return the float32 matrix product of two tiles."""
    if PRECISION == "widened":
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        result = tl.dot(a, b, input_precision=PRECISION)
    return result
