"""The choice of an implementation by device."""

from __future__ import annotations

import pytest
import torch

from pikvpress.kernels.by_device import runs_triton
from pikvpress.kernels.window_scores import received_attention, reference


class OnGpu:
    """The attributes that are read from a tensor on a GPU."""

    is_cuda = True

    def __init__(self, dtype):
        self.dtype = dtype


def test_on_a_cpu_references_run():
    assert not runs_triton(torch.ones(1))
    queries, keys = torch.randn(1, 2, 3, 16), torch.randn(1, 1, 9, 16)
    assert torch.equal(received_attention(queries, keys, 1.0), reference.received_attention(queries, keys, 1.0))


def test_on_a_gpu_kernels_run_unless_references_are_asked_for(monkeypatch):
    assert runs_triton(OnGpu(torch.bfloat16)) and not runs_triton(OnGpu(torch.float64))
    monkeypatch.setenv("PIKVPRESS_KERNELS", "reference")
    assert not runs_triton(OnGpu(torch.bfloat16))


def test_another_wish_is_refused(monkeypatch):
    monkeypatch.setenv("PIKVPRESS_KERNELS", "fast")
    with pytest.raises(ValueError, match="PIKVPRESS_KERNELS='fast': set it to 'reference'"):
        runs_triton(torch.ones(1))
