"""Stored entries: what is kept reads as before, in few bits too, and pages can go."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.stored import Stored
from pikvpress.cache.tail import DenseTail

HEADS, SIZE, PAGE = 2, 16, 64


def tail(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DenseTail(*(torch.randn(1, HEADS, count, SIZE, generator=generator) for _ in range(2)))


def rows(stored, part):
    """Return the keys and values of a head, packed ones first."""
    sides = [(stretch.keys.part(part), stretch.values.part(part)) for stretch in stored.stretches]
    return [torch.cat(side) for side in zip(*sides, strict=True)]


def mask(count, seed=1):
    return torch.rand(1, HEADS, count, generator=torch.Generator().manual_seed(seed)) < 0.7


def test_exact_entries_one_by_one():
    exact = ([codec("exact")] * HEADS,) * 2
    leaving, kept = tail(100), mask(100)
    stored = Stored().after(leaving, kept, 0, exact)
    for part in range(HEADS):
        for side, states in zip(rows(stored, part), (leaving.keys, leaving.values), strict=True):
            assert torch.equal(side, states[0, part][kept[0, part]])
    counts = stored.exact.counts
    again = torch.zeros(1, HEADS, max(counts) + 64, dtype=torch.bool)
    for part, count in enumerate(counts):
        again[0, part, :count:2] = True
    again[..., max(counts) :: 3] = True
    more = tail(64, seed=2)
    later = stored.after(more, again, max(counts), exact)
    for part, count in enumerate(counts):
        expected = torch.cat([rows(stored, part)[0][::2], more.keys[0, part][::3]])
        assert torch.equal(rows(later, part)[0], expected) and len(expected) == -(-count // 2) + 22
    assert later.exact.length == 164


@pytest.mark.parametrize("names", [("int4", "int8"), ("rot3", "rot2"), ("exact", "int2"), ("int8", "exact")])
def test_full_pages_are_packed_and_whole_pages_can_go(names):
    codecs = tuple([codec(name), codec("exact")] for name in names)  # the second head stays exact
    leaving = tail(4 * PAGE)
    every = torch.ones(1, HEADS, 4 * PAGE - 10, dtype=torch.bool)
    stored = Stored().after(leaving.between(0, 4 * PAGE - 10), every, 0, codecs)
    assert stored.packed.counts == (3 * PAGE, 0) and stored.exact.counts == (54, 4 * PAGE - 10)
    before = rows(stored, 0)
    kept = every.clone()
    kept[0, 0, PAGE : 2 * PAGE] = False  # a page of the first head, single entries of both
    kept[..., -5:] = False
    fresh = leaving.between(4 * PAGE - 10, 4 * PAGE)
    kept = torch.cat([kept, torch.ones(1, HEADS, 10, dtype=torch.bool)], dim=2)
    later = stored.after(fresh, kept, 4 * PAGE - 10, codecs)
    assert later.packed.counts == (2 * PAGE, 0) and later.exact.counts == (59, 4 * PAGE - 5)
    for side, old in zip(rows(later, 0), before, strict=True):  # what is packed is not packed again
        assert torch.equal(side[: 2 * PAGE], torch.cat([old[:PAGE], old[2 * PAGE : 3 * PAGE]]))
    assert torch.equal(rows(later, 1)[0], torch.cat([leaving.keys[0, 1][:-15], leaving.keys[0, 1][-10:]]))
