"""Offsets of numbers that lie further from the first than 32 bits can count, as in long prompts and large batches.

The tensors are spread over an address space of which only the pages that are used take memory.
"""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from benchmarks.kernels.operations import OPERATIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="needs sparse memory")
FAR = 2**31 + 64  # numbers, from the first to the last row
NO_RESERVE = 0x4000  # MAP_NORESERVE on Linux, which Python names since 3.13


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("dim", ["rows", "batch"])
def test_rows_far_apart_are_found(operation, dim, poisoned):
    torch.manual_seed(0)
    inputs = operation.make(torch.float16, "cpu", **operation.small[0])
    spread = {name: far_apart(value, 2 if dim == "rows" else 0) for name, value in inputs.items()}
    found, expected = (operation.kernel(**these) for these in (spread, inputs))
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def far_apart(value, dim):
    """Return a tensor (batch, heads, rows, …) whose last row, or whose last batch, is `FAR` numbers from the first."""
    if not isinstance(value, torch.Tensor) or value.dim() != 4 or value.shape[dim] == 1:
        return value
    strides = list(value.stride())
    strides[dim] = -(-FAR // (value.shape[dim] - 1))
    others = [other for other in (3, 1, 2, 0) if other != dim]
    place = 1
    for other in others:
        strides[other] = place
        place *= value.shape[other]
    size = 1 + sum(stride * (length - 1) for stride, length in zip(strides, value.shape, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    memory = mmap.mmap(-1, size * value.element_size(), flags=flags)
    whole = torch.frombuffer(memory, dtype=value.dtype)
    return whole.as_strided(value.shape, strides).copy_(value)


def tensors(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)
