"""Packing: codes stored side by side, and numbers that are restored to within half a step."""

from __future__ import annotations

import pytest
import torch

from pikvpress.kernels.compiling import numba_is_installed
from pikvpress.kernels.packing import (
    codes_in_whole_bytes,
    dequantise,
    pack_bits,
    quantise,
    quantise_and_pack,
    reference,
    unpack_bits,
)

FORMS = [reference.quantise_and_pack]
if numba_is_installed():
    from pikvpress.kernels.packing import compiled

    FORMS.append(compiled.quantise_and_pack)
GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_back(bits):
    codes = torch.randint(0, 2**bits, (3, 5, 24), generator=GENERATOR).to(torch.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (3, 5, 3 * bits) and packed.dtype == torch.uint8
    assert torch.equal(unpack_bits(packed, bits), codes)


def test_the_first_code_has_the_lowest_bits():
    assert pack_bits(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [0b00111001]
    assert pack_bits(torch.tensor([5, 0, 0, 0, 0, 0, 0, 7], dtype=torch.uint8), 3).tolist() == [5, 0, 0b11100000]
    assert [codes_in_whole_bytes(bits) for bits in (8, 4, 3, 2)] == [1, 2, 8, 4]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("along_tokens", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (64, 64), (100, 48), (130, 80)])
def test_numbers_come_back_within_half_a_step(bits, along_tokens, rows, width):
    states = torch.randn(rows, width, generator=GENERATOR) * torch.rand(width, generator=GENERATOR) * 5 + 1
    codes, scale, zero = quantise(states, bits, 64, along_tokens)
    groups = (-(-rows // 64), width) if along_tokens else (rows, -(-width // 64))
    assert scale.shape == zero.shape == groups and int(codes.max()) < 2**bits
    found = dequantise(codes, scale, zero, 64, along_tokens, torch.float32)
    dim = 0 if along_tokens else 1
    step = scale.float().repeat_interleave(64, dim=dim).narrow(dim, 0, states.shape[dim])
    assert ((found - states).abs() <= step * 0.5 + 2e-2).all()  # scales are rounded to float16


def test_a_constant_group_is_kept():
    states = torch.full((10, 8), 3.25)
    found = dequantise(*quantise(states, 2, 64, True), 64, True, torch.float32)
    assert torch.equal(found, states)


@pytest.mark.parametrize("pack", FORMS)
@pytest.mark.parametrize("number", [1e6, torch.inf, torch.nan])
def test_numbers_beyond_float16_are_refused(pack, number):
    states = torch.ones(4, 8)
    states[2, 5] = number
    with pytest.raises(ValueError, match=r"up to (1e\+06|inf|nan) cannot be packed.*65504"):
        pack(states, 4, 64, True)


@pytest.mark.parametrize("pack", FORMS)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("along_tokens", [True, False])
@pytest.mark.parametrize(("rows", "width", "group"), [(1, 8, 64), (2100, 64, 64), (130, 80, 64), (33, 48, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_in_one_pass_gives_the_same_bytes(pack, bits, along_tokens, rows, width, group, dtype):
    states = torch.randn(width, rows, generator=GENERATOR).T.to(dtype) * 3  # not contiguous
    states[:, 1] = 0.1  # no range
    packed, scale, zero = pack(states, bits, group, along_tokens)
    codes, *expected = quantise(states, bits, group, along_tokens)
    assert torch.equal(packed, pack_bits(codes, bits))
    assert torch.equal(scale, expected[0]) and torch.equal(zero, expected[1])


@pytest.mark.skipif(len(FORMS) == 1, reason="numba is not installed")
def test_on_a_cpu_compiled_loops_run_unless_the_definition_is_asked_for(monkeypatch):
    ran = []
    monkeypatch.setattr(compiled, "quantise_and_pack", lambda *args: ran.append(args))
    quantise_and_pack(torch.ones(1, 8), 4, 64, True)
    assert len(ran) == 1
    monkeypatch.setenv("PIKVPRESS_KERNELS", "reference")
    assert torch.equal(quantise_and_pack(torch.ones(1, 8), 4, 64, True)[0], torch.zeros(1, 4, dtype=torch.uint8))
    assert len(ran) == 1
