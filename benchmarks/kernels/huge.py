"""Batches of more numbers than 32 bits can count, whose last row must be what it is alone."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.kernels.operation import Operation, Shape


def is_of_rows(operation: Operation) -> bool:
    """Return whether all inputs of an operation are tensors whose first dimension is the batch."""
    return operation.folder not in ("compact", "ragged_attention")


def difference(operation: Operation, dtype: torch.dtype, device: str, shape: Shape, numbers: int) -> float:
    """Return how far the results of a row that is the last of a huge batch are from those of the row alone.

    It is the largest difference of any number, relative to the largest number of the result.

    Parameters
    ----------
    operation : Operation
        One that `is_of_rows`.
    dtype : torch.dtype
        Data type of the inputs.
    device : str
        "cuda" or "cpu".
    shape : Shape
        Of the row.
    numbers : int
        The largest input of the batch has more than these.
    """
    torch.manual_seed(0)
    one = operation.make(dtype, device, **dict(shape, batch=1))
    rows = {name: value for name, value in one.items() if isinstance(value, torch.Tensor) and value.shape[:1] == (1,)}
    batch = numbers // max(tensor.numel() for tensor in rows.values()) + 2
    huge = one | {name: value.expand(batch, *value.shape[1:]).contiguous() for name, value in rows.items()}
    for name in rows:  # the other rows differ
        huge[name][:-1].copy_(rows[name].flip(-1))
    alone, among = _tensors(operation.kernel(**one)), _tensors(operation.kernel(**huge))
    return max(_distance(found[-1:], expected) for expected, found in zip(alone, among, strict=True))


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.double(), expected.double()
    largest = expected.abs().nan_to_num(0.0).max().clamp_min(1e-30)
    return float(torch.where(found == expected, 0.0, found - expected).abs().max() / largest)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)
