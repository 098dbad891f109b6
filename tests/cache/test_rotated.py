"""Rotated codecs: bytes, errors compared with integer codecs, and reading without rotating back."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import CODECS, RotatedCodec
from pikvpress.cache.ragged import Ragged
from pikvpress.kernels.ragged_attention import attend
from pikvpress.kernels.rotation import rotation

NAMES = ("rot4", "rot3", "rot2", "rot1")


def outliers(rows, width=64):
    """Return keys like those of real models: a few channels are far larger, and far from 0."""
    generator = torch.Generator().manual_seed(rows)
    spread = torch.ones(width)
    spread[[3, 17]] = 12
    return torch.randn(rows, width, generator=generator) * spread + 3 * spread


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [64, 80])
@pytest.mark.parametrize("is_keys", [True, False])
def test_bytes_are_codes_a_scale_a_row_the_first_row_and_a_mean_a_block(name, width, is_keys):
    codec = CODECS[name]
    for rows in (0, 1, 256, 300):
        states = outliers(rows, width)
        stored = codec.encode(states, is_keys)
        means = -(-rows // 256) * width if is_keys else 0
        assert len(stored) == codec.nbytes(rows, width, torch.float32, is_keys)
        assert len(stored) == rows * width * codec.bits // 8 + 2 * rows + 2 * means + 2 * width * (rows > 0)
        found = codec.decode(stored, rows, width, torch.float16, is_keys)
        assert found.shape == (rows, width) and found.dtype == torch.float16


@pytest.mark.parametrize(("bits", "is_keys"), [(3, True), (2, True), (4, False), (3, False), (2, False)])
def test_they_err_less_than_integers_of_as_many_bits(bits, is_keys):
    states = outliers(512) if is_keys else outliers(512) - 3
    if is_keys:
        states[:, 3] += torch.linspace(0, 60, 512)  # integer groups see all of a slow change
    errors = [
        (codec.decode(codec.encode(states, is_keys), 512, 64, torch.float32, is_keys) - states).norm()
        for codec in (CODECS[f"rot{bits}"], CODECS[f"int{bits}"])
    ]
    sizes = [CODECS[f"{kind}{bits}"].nbytes(512, 64, torch.float32, is_keys) for kind in ("rot", "int")]
    assert errors[0] < errors[1] and sizes[0] < sizes[1]


def test_values_keep_their_projection_and_keys_are_shorter():
    states = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    along = []
    for is_keys in (True, False):
        found = CODECS["rot1"].decode(CODECS["rot1"].encode(states, is_keys), 300, 64, torch.float32, is_keys)
        along.append((found * states)[1:].sum(dim=1) / states[1:].square().sum(dim=1))
    torch.testing.assert_close(along[1], torch.ones(299), atol=2e-3, rtol=0)
    assert along[0].mean() < 0.95


@pytest.mark.parametrize("is_keys", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 300])
def test_the_first_entry_is_kept_and_disturbs_no_other(rows, is_keys):
    states = outliers(rows)
    states[0] = 300 * torch.ones(64)
    codec = CODECS["rot2"]
    found = codec.decode(codec.encode(states, is_keys), rows, 64, torch.float32, is_keys)
    torch.testing.assert_close(found[0], states[0], atol=0.5, rtol=0)
    states[0] = 0
    again = codec.decode(codec.encode(states, is_keys), rows, 64, torch.float32, is_keys)
    assert torch.equal(found[1:], again[1:])


@pytest.mark.parametrize("is_keys", [True, False])
def test_what_is_read_rotated_is_the_same_turned(is_keys):
    ragged = Ragged.store([outliers(70), outliers(5)], [CODECS["rot3"], CODECS["int4"]], is_keys)
    turned = ragged.rotated_part(0)
    torch.testing.assert_close(turned @ rotation(64, turned.device), ragged.part(0))
    assert ragged.rotated_part(1) is None


def test_a_part_without_some_channels_is_turned_back():
    states = outliers(70)
    states[:, ::4] = 0
    ragged = Ragged.store([states], [CODECS["rot4"]], True)
    assert ragged.channels[0] is not None and ragged.rotated_part(0) is None
    found = ragged.part(0)
    assert (found[:, ::4] == 0).all() and (found - states).norm() < 0.1 * states.norm()


@pytest.mark.parametrize("keys", ["exact", "int8", "rot4", "rot2"])
@pytest.mark.parametrize("values", ["exact", "int8", "rot3", "rot1"])
def test_attention_reads_them_as_what_they_are_turned_back_to(keys, values):
    torch.manual_seed(0)
    counts = (70, 0, 300)
    held = []
    for names in ((keys, values), ("int4", "rot2")):
        parts = [[outliers(count) for count in counts] for _ in names]
        codecs = [[CODECS[name], CODECS["exact"], CODECS[name]] for name in names]
        held.append(tuple(Ragged.store(p, c, key) for p, c, key in zip(parts, codecs, (True, False), strict=True)))
    query, recent = torch.randn(1, 6, 2, 64) * 0.1, torch.randn(2, 1, 3, 5, 64)
    arguments = recent[0], recent[1], torch.zeros(1, 1, 2, 5, dtype=torch.bool), 0.1

    class Plain:
        def __init__(self, ragged):
            self.part, self.layout, self.rotated_part = ragged.part, None, lambda index: None

    found = attend(query, held, *arguments)
    expected = attend(query, [tuple(map(Plain, pair)) for pair in held], *arguments)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_heads_that_no_even_number_of_bytes_holds_are_refused():
    assert [CODECS[name].unit for name in NAMES] == [4, 16, 8, 16]
    with pytest.raises(ValueError, match=r"codec 'rot3'.* the head size 40 is not a multiple"):
        CODECS["rot3"].check(40)
    assert isinstance(CODECS["rot3"].following, RotatedCodec) and CODECS["rot3"].following.block == 64
