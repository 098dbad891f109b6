"""Kernels at real sizes and beyond 2^31 numbers, on a GPU only; the method of checking the latter, everywhere."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels.operations import OPERATIONS

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
NUMBERS = 2**31 if ON_GPU else 2000
OF_ROWS = [operation for operation in OPERATIONS if operation.folder not in ("compact", "ragged_attention")]


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_kernel_is_the_reference_at_real_sizes(operation, dtype, poisoned):
    for shape in operation.large:
        if max(shape.get("tokens", 0), shape.get("entries", 0)) <= 32768:
            torch.manual_seed(0)
            inputs = operation.make(dtype, DEVICE, **shape)
            assert operation.error(inputs) <= operation.tolerance[dtype], shape


@pytest.mark.parametrize("operation", OF_ROWS, ids=lambda operation: operation.name)
def test_the_last_row_of_a_huge_batch_is_what_it_is_alone(operation):
    shape = dict(operation.large[0] if ON_GPU else operation.small[0], batch=1)
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    torch.manual_seed(0)
    one = operation.make(dtype, DEVICE, **shape)
    tensors = {
        name: value for name, value in one.items() if isinstance(value, torch.Tensor) and value.shape[:1] == (1,)
    }
    batch = NUMBERS // max(tensor.numel() for tensor in tensors.values()) + 2
    huge = one | {name: value.expand(batch, *value.shape[1:]).contiguous() for name, value in tensors.items()}
    assert max(value.numel() for name, value in huge.items() if name in tensors) > NUMBERS
    for name in tensors:  # the other rows differ
        huge[name][:-1] = huge[name][:-1].flip(-1)
    alone, among = operation.kernel(**one), operation.kernel(**huge)
    for expected, found in zip(_tensors(alone), _tensors(among), strict=True):
        torch.testing.assert_close(found[-1:], expected, equal_nan=True)


def _tensors(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)
