"""Ada-KV lets the heads of a layer compete, as a dense implementation does."""

from __future__ import annotations

import pytest

from pikvpress.schedulers import AdaKVScheduler
from tests.schedulers.dense import best
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


def pool(floor):
    """Return the rule: some of every head, then the best of all heads together."""

    def rule(state, candidates, quota, row):
        if max(map(len, candidates)) <= quota:
            return candidates
        least = max(1, int(quota * floor))
        kept = [best(entries, least, lambda entry: entry.mass) for entries in candidates]
        rest = [
            (entry.mass, head, entry)
            for head, entries in enumerate(candidates)
            for entry in entries
            if entry not in kept[head]
        ]
        spare = len(candidates) * quota - sum(map(len, kept))
        for _, head, entry in sorted(rest, key=lambda item: item[0], reverse=True)[:spare]:
            kept[head].append(entry)
        return kept

    return rule


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    uneven = 0
    for seed in seeds:
        floor = (0.2, 0.0, 1.0, 0.5)[seed % 4]
        cache, _ = compare(seed, AdaKVScheduler(floor=floor), pool(floor), quota=64 + seed)
        uneven += len(set(cache.layers[0].counts()[0])) > 1
    assert uneven > 0


def test_a_floor_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"floor is a share of the mean budget and must be in \[0, 1\], got 2"):
        AdaKVScheduler(floor=2)
