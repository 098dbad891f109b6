"""LRU drops the pages that were last attended to longest ago, as a dense implementation does."""

from __future__ import annotations

import pytest

from tests.schedulers.dense import by_page
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    dropped = 0
    for seed in seeds:
        cache, _ = compare(seed, "lru", by_page(lambda entry, state: entry.last), quota=64 + seed)
        dropped += sum(cache.history.dropped().values())
    assert dropped > 0
