"""A compressed stretch."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail

HEADS, SIZE = 2, 16


def dense(length, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DenseTail(*(torch.randn(batch, HEADS, length, SIZE, generator=generator) for _ in range(2)))


def whole(entries, name="int8"):
    kept = torch.ones(entries.keys.shape[:3], dtype=torch.bool)
    return Stretch.store(entries, kept, ([codec(name)] * HEADS, [codec(name)] * HEADS), None, all_channels=True)


def test_it_remembers_how_long_it_was():
    entries = dense(10)
    kept = torch.zeros(1, HEADS, 10, dtype=torch.bool)
    kept[0, 0, :3] = kept[0, 1, 4:9] = True
    stretch = Stretch.store(entries, kept, ([codec("exact")] * HEADS, [codec("int8")] * HEADS), 0)
    assert stretch.length == 10 and stretch.counts == (3, 5)
    assert stretch.nbytes == stretch.keys.nbytes + stretch.values.nbytes
    assert [side[0].name for side in stretch.codecs] == ["exact", "int8"]
    assert torch.equal(stretch.keys.part(1), entries.keys[0, 1, 4:9])
    swapped = stretch.select([1, 0]).each(torch.clone)
    assert swapped.counts == (5, 3) and swapped.length == 10


def test_joined_and_cut_it_is_what_it_was():
    entries = dense(192, batch=2)
    first, rest = whole(entries.between(0, 64)), whole(entries.between(64, 192))
    joined = first.joined(rest)
    assert joined.length == 192 and torch.equal(joined.keys.buffer, whole(entries).keys.buffer)
    assert torch.equal(joined.cut(64).values.buffer, first.values.buffer) and first.length == 64


def test_unpacked_it_is_dense_again():
    entries = dense(128, batch=2)
    part = whole(entries, "exact").unpacked(64, 70, batch=2)
    assert torch.equal(part.keys, entries.keys[:, :, 64:70]) and torch.equal(part.values, entries.values[:, :, 64:70])


def test_what_cannot_be_stored_is_named_with_its_layer():
    entries = dense(64)
    broken = DenseTail(entries.keys.clone().index_fill_(2, torch.tensor([3]), torch.nan), entries.values)
    kept, codecs = torch.ones(1, HEADS, 64, dtype=torch.bool), ([codec("rank4")] * HEADS, [codec("rank4")] * HEADS)
    with pytest.raises(ValueError, match="the keys of layer 3 contain NaN or infinite numbers"):
        Stretch.store(broken, kept, codecs, 3)
    with pytest.raises(ValueError, match=r"^layer 3: codec 'rank16' keeps 16 directions"):
        Stretch.store(entries, kept, ([codec("rank16")] * HEADS, codecs[1]), 3)
    with pytest.raises(ValueError, match=r"^codec 'rank16' keeps 16 directions"):
        Stretch.store(entries, kept, ([codec("rank16")] * HEADS, codecs[1]), None)
