"""NexusQuant's lattice points: what they decode to is the package's, and their bits are those of a code."""

from __future__ import annotations

import math

import pytest
import torch
from kvpress import KnormPress

from evaluation.rivals.nexusquant import KeyKeyPress, NexusQuantPress, point_bits


def random_signs(blocks: int, even: bool) -> torch.Tensor:
    signs = torch.randint(0, 2, (blocks, 8), generator=torch.Generator().manual_seed(0))
    if even:
        signs[:, -1] = signs[:, :-1].sum(dim=1) % 2
    return signs


def test_bits_are_what_a_code_needs_that_knows_the_lattice():
    assert point_bits(torch.zeros(10, 16, dtype=torch.long)).abs().max() == 0
    same = torch.tensor([[0] * 8, [1] * 8]).repeat(50, 2)  # integers or halves, equally often
    torch.testing.assert_close(point_bits(same), torch.full((100,), 2.0, dtype=torch.float64))
    free = point_bits(2 * random_signs(20000, even=False))
    even = point_bits(2 * random_signs(20000, even=True))
    assert free.mean().item() == pytest.approx(8, abs=0.01)
    assert even.mean().item() == pytest.approx(7, abs=0.01)


def test_bits_fall_short_of_none_of_the_information():
    """As many points as there are, all different and equally likely, need the logarithm of their number."""
    points = torch.cartesian_prod(*[torch.tensor([-1, 1])] * 8)  # halves, of which E8 as it is used here has all
    assert point_bits(points).sum().item() == pytest.approx(256 * math.log2(256))


def test_keys_and_values_are_decoded_and_counted_within_the_bytes(source, nexusquant):
    full = source.full
    found = source.prefilled.compress(NexusQuantPress(KnormPress(), 0.5, key_bits=4, value_bits=3))
    for index in range(len(full.layers)):
        for ours, plain, levels in zip(found.layers[index], full.layers[index], (16, 8), strict=True):
            step = plain.abs().amax(dim=-1, keepdim=True) / (levels / 2)
            torch.testing.assert_close(ours, (plain / step).round() * step)
    assert found.bytes_held < 0.15 * full.bytes_held  # of 32 bits
    less = source.prefilled.compress(NexusQuantPress(KnormPress(), 0.97))
    assert 0.0295 * full.bytes_held < less.bytes_held <= 0.03 * full.bytes_held


def test_vectors_that_occur_again_are_counted_once(tiny, nexusquant):
    press = NexusQuantPress(KnormPress(), 0.5, key_bits=4, value_bits=4)
    press.post_init_from_model(tiny)
    new = torch.randn(1, 1, 100, 64, generator=torch.Generator().manual_seed(0))
    once, twice = (press.code(states, False)[1].sum().item() for states in (new, new.repeat(1, 1, 20, 1)))
    assert 16 * 100 + 64 * 100 * 2 < once < twice < 5 * once + 19 * 16 * 100  # every vector has its scale


def test_own_eviction_keeps_the_same_tokens_in_all_layers(source, nexusquant, random_context):
    found = source.prefilled.compress(NexusQuantPress(KeyKeyPress(), 0.97))
    whole = source.prefilled.compress(NexusQuantPress(KnormPress(), 0.0))
    for (_, values), (_, all_values) in zip(found.layers, whole.layers, strict=True):
        kept = values.shape[2]
        assert 40 < kept < len(random_context)
        expected = [*range(kept - 32), *range(len(random_context) - 32, len(random_context))]
        torch.testing.assert_close(values, all_values[:, :, expected])


@pytest.mark.parametrize("bits", [0, 5, 2.5, True])
def test_bits_that_the_package_does_not_offer_are_refused(bits):
    with pytest.raises(ValueError, match="value_bits must be 1, 2, 3 or 4, got"):
        NexusQuantPress(KnormPress(), value_bits=bits)


def test_it_is_the_press_of_the_package_with_fewer_bits_than_its_coder(tiny, source):
    integration = pytest.importorskip("nexusquant.integrations.kvpress")
    coder = pytest.importorskip("nexusquant.core.entropy_coder")
    theirs = source.prefilled.compress(integration.E8Press(key_bits=3, value_bits=2))
    ours = source.prefilled.compress(NexusQuantPress(KnormPress(), 0.5, key_bits=3, value_bits=2))
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    scales = rows.abs().amax(dim=-1, keepdim=True) / 4
    from nexusquant.core.e8_lattice import E8Lattice

    doubled = (2 * E8Lattice.quantize_perhead(rows, levels=8) / scales).round().long()
    codes = doubled.flatten().numpy().astype("int8")
    table = coder.build_cdf_from_samples(codes)[1]
    assert point_bits(doubled).sum().item() < 8 * len(coder.encode_stream(codes, table))
