"""TurboQuant as a package has it: its numbers, and the bits of its format."""

from __future__ import annotations

import pytest
import torch
from kvpress import KnormPress

from evaluation.rivals.turboquant import TurboQuantPress


def test_numbers_are_those_of_the_package_and_bits_those_of_its_format(source, turboquant, random_context):
    found, full = source.prefilled.compress(TurboQuantPress(KnormPress(), 0.5, bits=3)), source.full
    torch.testing.assert_close(found.layers[1][0], 0.8 * full.layers[1][0])
    vectors = 2 * 2 * 2 * len(random_context)  # layers, heads, and keys beside values
    assert found.bytes_held == vectors * (3 * 32 + 32) // 8
    less = source.prefilled.compress(TurboQuantPress(KnormPress(), 0.95, bits=2.5))
    assert less.bytes_held == 2 * less.lengths[0] * 2 * 2 * (2.5 * 32 + 32) / 8 <= 0.05 * full.bytes_held


@pytest.mark.parametrize("bits", [0.5, 9, "3", True])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be a number from 1 to 8, got"):
        TurboQuantPress(KnormPress(), bits=bits)


def test_more_bits_are_nearer_with_the_package_itself(source):
    if not hasattr(pytest.importorskip("turboquant"), "TurboQuantProd"):
        pytest.skip("another package has the name turboquant")
    errors = []
    for bits in (2, 4):
        torch.manual_seed(0)
        found = source.prefilled.compress(TurboQuantPress(KnormPress(), 0.0, bits=bits))
        errors.append((found.layers[0][1] - source.full.layers[0][1]).norm().item())
    assert 0 < errors[1] < 0.5 * errors[0]
