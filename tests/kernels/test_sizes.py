"""Kernels at real sizes and beyond 2^31 numbers, on a GPU only; the method of checking the latter, everywhere."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels.huge import difference, is_of_rows
from benchmarks.kernels.operations import OPERATIONS

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
NUMBERS = 2**31 if ON_GPU else 2000


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_kernel_is_the_reference_at_real_sizes(operation, dtype, poisoned):
    for shape in operation.large:
        if max(shape.get("tokens", 0), shape.get("entries", 0)) <= 32768:
            torch.manual_seed(0)
            inputs = operation.make(dtype, DEVICE, **shape)
            assert operation.error(inputs) <= operation.tolerance[dtype], shape


@pytest.mark.parametrize("operation", filter(is_of_rows, OPERATIONS), ids=lambda operation: operation.name)
def test_the_last_row_of_a_huge_batch_is_what_it_is_alone(operation):
    dtype, shape = (torch.bfloat16, operation.large[0]) if ON_GPU else (torch.float32, operation.small[0])
    assert difference(operation, dtype, DEVICE, shape, NUMBERS) <= operation.tolerance[dtype]
