"""Every kernel compared with its reference in float64, in Triton's interpreter or, if there is one, on a GPU."""

from __future__ import annotations

import itertools

import pytest
import torch

from benchmarks.kernels.operations import OPERATIONS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = [
    pytest.param(operation, shape, dtype, id=f"{operation.name}-{number}-{str(dtype).removeprefix('torch.')}")
    for operation in OPERATIONS
    for (number, shape), dtype in itertools.product(enumerate(operation.small), operation.dtypes)
]


@pytest.mark.parametrize(("operation", "shape", "dtype"), CASES)
def test_the_kernel_is_the_reference(operation, shape, dtype, poisoned):
    torch.manual_seed(0)
    inputs = operation.make(dtype, DEVICE, **shape)
    assert operation.error(inputs) <= operation.tolerance[dtype]
