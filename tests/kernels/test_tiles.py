"""Sizes of tiles, and how tiles are multiplied."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from pikvpress.kernels.tiles import padded_size, precision


def test_tiles_are_powers_of_two_that_products_take():
    assert [padded_size(size) for size in (1, 16, 17, 80, 128)] == [16, 16, 32, 128, 128]
    assert padded_size(3, least=2) == 4


def test_float32_keeps_its_last_bits(monkeypatch):
    assert precision(torch.zeros(1)) == "ieee" and precision(torch.zeros(1).half()) == "tf32"
    for interpreted, expected in (("1", "widened"), ("0", "tf32")):
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        assert precision(torch.zeros(1).bfloat16()) == expected
