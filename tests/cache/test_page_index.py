"""The index of pages: bounds of full pages, and the rows of the best ones."""

from __future__ import annotations

import torch

from pikvpress.cache import codec
from pikvpress.cache.page_index import PageIndex
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.stretch import Stretch
from pikvpress.schedulers import QuestScheduler

PAGE, SIZE = 64, 8
COUNTS = (200, 70)


def stretch():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, SIZE, generator=generator) for count in COUNTS]
    parts[0][130] = 9  # in the third page
    sides = [Ragged.store(parts, [codec("exact")] * 2, are_keys, all_channels=True) for are_keys in (True, False)]
    return Stretch(*sides, length=300)


def test_bounds_are_those_of_full_pages():
    index = PageIndex.of(stretch(), heads=2)
    assert index.missing.tolist() == [[[False] * 3, [False, True, True]]]
    page = stretch().keys.part(0)[PAGE : 2 * PAGE]
    assert torch.equal(index.lowest[0, 0, 1], page.amin(dim=0)) and torch.equal(
        index.highest[0, 0, 1], page.amax(dim=0)
    )
    assert index.nbytes == 2 * 2 * 3 * SIZE * 4 + 6
    assert torch.equal(index.each(lambda part: part[[0, 0]]).lowest[1], index.lowest[0])


def test_the_best_pages_and_the_rest_of_a_head_are_chosen():
    held, query = stretch(), torch.ones(1, 2, 1, SIZE)
    keys = held.keys.part(0)
    chosen, values = PageIndex.of(held, heads=2).chosen(query, held, 1, QuestScheduler())
    assert torch.equal(chosen.part(0), torch.cat([keys[128:192], keys[192:]]))
    assert torch.equal(values.part(0), torch.cat([held.values.part(0)[128:192], held.values.part(0)[192:]]))
    assert torch.equal(chosen.part(1), held.keys.part(1)) and chosen.layout is None and chosen.rotated_part(0) is None
    whole, _ = PageIndex.of(held, heads=2).chosen(query, held, 3, QuestScheduler())
    assert torch.equal(whole.part(0), keys)
