"""H2O keeps what a dense implementation keeps, entry by entry."""

from __future__ import annotations

import pytest

from tests.schedulers.dense import per_head
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    dropped = 0
    for seed in seeds:
        cache, _ = compare(seed, "h2o", per_head(lambda entry: entry.mass), quota=64 + seed)
        dropped += sum(cache.history.dropped().values())
    assert dropped > 0
