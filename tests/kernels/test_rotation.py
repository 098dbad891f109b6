"""Rotations, levels, and reading rotated vectors back."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import pytest
import torch

from pikvpress.kernels.compiling import numba_is_installed
from pikvpress.kernels.packing import pack_bits, unpack_bits
from pikvpress.kernels.rotation import LEVELS, look_up, quantise_levels, reference, rotation

FORMS = [reference.pack_levels]
if numba_is_installed():
    from pikvpress.kernels.rotation import compiled

    FORMS.append(compiled.pack_levels)
each_form = pytest.mark.parametrize("pack", FORMS)
CPU = torch.device("cpu")
NORMAL = NormalDist()


def read_back(pack, states, bits, length):
    return look_up(*pack(states, bits, length), bits)


@pytest.mark.parametrize("width", [1, 8, 40, 64, 80, 96, 112, 128, 256, 72])
def test_a_rotation_keeps_lengths_and_spreads_every_channel(width):
    turn = rotation(width, CPU)
    torch.testing.assert_close(turn @ turn.T, torch.eye(width), atol=1e-5, rtol=0)
    if width > 1:  # no channel ends up in a single number
        assert turn.abs().max() < 2.2 / math.sqrt(width)
    assert rotation(width, CPU) is turn


def test_rotations_never_change():
    # Stored vectors depend on these
    assert (rotation(8, CPU)[0] * math.sqrt(8)).round().int().tolist() == [1, 1, -1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("bits", LEVELS)
def test_levels_are_the_means_of_what_is_rounded_to_them(bits):
    levels = LEVELS[bits]
    assert len(levels) == 2**bits and list(levels) == [-level for level in reversed(levels)]
    edges = [-math.inf, *((a + b) / 2 for a, b in itertools.pairwise(levels)), math.inf]
    for low, level, high in zip(edges[:-1], levels, edges[1:], strict=True):
        density = [0 if math.isinf(edge) else NORMAL.pdf(edge) for edge in (low, high)]
        share = (1 if high == math.inf else NORMAL.cdf(high)) - (0 if low == -math.inf else NORMAL.cdf(low))
        assert abs((density[0] - density[1]) / share - level) < 1e-6


@each_form
@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_errors_are_those_of_the_levels(pack, bits, error):
    states = torch.randn(4000, 128, generator=torch.Generator().manual_seed(bits)) * 3
    found = read_back(pack, states, bits, length=0)
    assert ((found - states).square().sum() / states.square().sum()).item() == pytest.approx(error, rel=0.05)


@each_form
@pytest.mark.parametrize("bits", LEVELS)
def test_scales_are_of_least_error_or_keep_norm_or_projection(pack, bits):
    states = torch.randn(200, 64, generator=torch.Generator().manual_seed(bits)) * torch.logspace(-3, 3, 200)[:, None]
    found = read_back(pack, states, bits, length=1)
    along = (found * states).sum(dim=1) / states.square().sum(dim=1)
    torch.testing.assert_close(along, torch.ones(200), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        read_back(pack, states, bits, length=0.5).norm(dim=1), states.norm(dim=1), atol=0, rtol=1e-3
    )
    least = read_back(pack, states, bits, length=0)
    for factor in (0.97, 1.03):
        assert ((least - states).norm(dim=1) <= (least * factor - states).norm(dim=1)).all()


@each_form
@pytest.mark.parametrize("length", [0, 0.5, 1])
def test_zeros_stay_zeros_and_what_float16_cannot_hold_is_refused(pack, length):
    states = torch.zeros(3, 16)
    assert torch.equal(read_back(pack, states, 2, length), states)
    for number in (1e6, torch.nan, torch.inf):
        states[1, 5] = number
        with pytest.raises(ValueError, match=r"cannot be packed.*65504; store these states exactly"):
            pack(states, 2, length)


@each_form
@pytest.mark.parametrize("bits", LEVELS)
@pytest.mark.parametrize(("rows", "width"), [(0, 64), (1, 8), (2100, 64), (70, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_packing_in_one_pass_gives_the_nearest_levels(pack, bits, rows, width, dtype):
    states = torch.randn(width, rows, generator=torch.Generator().manual_seed(bits)).T.to(dtype)  # not contiguous
    packed, scales = pack(states, bits, 2 / 3)
    assert packed.shape == (rows, width * bits // 8) and scales.shape == (rows,)
    codes, expected = quantise_levels(states.double(), bits, 2 / 3)
    assert (unpack_bits(packed, bits) == codes).float().mean() > 0.9999 or rows == 0  # but for ties
    torch.testing.assert_close(scales, expected, atol=0, rtol=2e-3)


@each_form
def test_numbers_that_are_zero_or_on_a_border_have_the_level_that_the_definition_gives(pack):
    states = torch.tensor([[0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5] * 8])
    assert torch.equal(pack(states, 1, 1.0)[0], pack_bits(quantise_levels(states, 1, 1.0)[0], 1))
