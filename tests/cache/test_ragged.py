"""Parts with different numbers of rows in one buffer."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import CODECS, codec
from pikvpress.cache.ragged import Ragged

DIM = 64


def rows(*counts, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(counts))
    return [torch.randn(count, DIM, generator=generator).to(dtype) for count in counts]


def stored(parts, name, is_keys=True):
    return Ragged.store(parts, [codec(name)] * len(parts), is_keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_keys", [True, False])
def test_exact_parts_are_views_of_what_was_stored(dtype, is_keys):
    parts = rows(5, 0, 70, 1, dtype=dtype)
    ragged = stored(parts, "exact", is_keys)
    for index, part in enumerate(parts):
        found = ragged.part(index)
        assert found.dtype == dtype and torch.equal(found, part)
        assert len(part) == 0 or found.untyped_storage().data_ptr() == ragged.buffer.untyped_storage().data_ptr()
    assert ragged.nbytes == sum(part.nbytes for part in parts)


@pytest.mark.parametrize("name", ["int8", "int4", "int3", "int2"])
@pytest.mark.parametrize("is_keys", [True, False])
def test_bytes_are_those_that_the_codec_says(name, is_keys):
    parts = rows(130, 0, 64, 3)
    ragged = stored(parts, name, is_keys)
    said = [CODECS[name].nbytes(len(part), DIM, torch.float32, is_keys) for part in parts]
    assert sum(said) <= ragged.nbytes < sum(said) + 16 * len(parts)
    bits = CODECS[name].bits
    scales = [-(-len(part) // 64) * DIM if is_keys else len(part) for part in parts]
    assert said == [len(part) * DIM * bits // 8 + 4 * n for part, n in zip(parts, scales, strict=True)]
    errors = [(ragged.part(i) - part).abs().max() if len(part) else 0 for i, part in enumerate(parts)]
    assert max(errors) < 4 / (2**bits - 1)


def test_each_part_has_a_codec_of_its_own():
    parts = rows(70, 70, 70)
    ragged = Ragged.store(parts, [codec(name) for name in ("int2", "exact", "int8")], False)
    errors = [(ragged.part(i) - part).abs().mean().item() for i, part in enumerate(parts)]
    assert errors[1] == 0 < errors[2] < 0.02 < errors[0]
    assert not ragged.is_exact


def test_selecting_repeats_and_drops_parts():
    parts = rows(7, 66, 3)
    ragged = stored(parts, "int4").select([2, 1, 1])
    again = stored([parts[2], parts[1], parts[1]], "int4")
    assert torch.equal(ragged.buffer, again.buffer) and ragged.counts == (3, 66, 66)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("is_keys", [True, False])
def test_joining_and_cutting_are_storing_together(name, is_keys):
    parts, grouped = rows(192, 192), codec(name).following
    whole = stored(parts, grouped, is_keys)
    joined = stored([part[:64] for part in parts], grouped, is_keys).joined(
        stored([part[64:] for part in parts], grouped, is_keys)
    )
    assert torch.equal(joined.buffer, whole.buffer) and joined.counts == whole.counts
    assert torch.equal(whole.cut(128).buffer, stored([part[:128] for part in parts], grouped, is_keys).buffer)


def test_groups_with_other_zero_channels_can_be_joined():
    first, second = rows(64, 64)
    first[:, 3] = second[:, 5] = 0
    one, other = (Ragged.store([part], [codec("int8")], True, all_channels=True) for part in (first, second))
    assert (one.joined(other).part(0) - torch.cat([first, second])).abs().max() < 0.02


@pytest.mark.parametrize("name", ["exact", "int4", "int3"])
def test_channels_that_are_zero_take_no_bytes(name):
    (part,) = rows(128)
    part[:, torch.arange(0, DIM, 4)] = 0
    ragged = stored([part], name)
    assert ragged.nbytes < 0.8 * stored(rows(128), name).nbytes
    found = ragged.part(0)
    assert (found[:, ::4] == 0).all() and (found - part).abs().max() < 0.6
    assert name != "exact" or torch.equal(found, part)


@pytest.mark.parametrize("name", ["exact", "int2", "rot4", "rot3", "rot1"])
def test_keys_that_are_all_zero_are_read_as_zeros(name):
    parts = [torch.zeros(70, 64), *rows(5)]
    found = stored(parts, name)
    assert not found.part(0).any() and found.part(0).shape == (70, 64)
    assert found.part(1).any()
