"""The adaptive scheduler keeps what the rule that it switches to keeps, as in a dense implementation."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pikvpress import PiKVCache
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import Candidates
from pikvpress.schedulers import AdaptiveScheduler
from tests.schedulers.dense import HEADS, best
from tests.schedulers.streams import compare
from tests.schedulers.test_adakv import pool

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


class Switching:
    """The rule, and how often it chose which policy."""

    def __init__(self, tolerance, pressure):
        self.tolerance, self.pressure, self.chosen = tolerance, pressure, Counter()

    def __call__(self, state, candidates, quota, row):
        recency = lambda entry: 10**9 if entry.position < 4 else entry.position  # noqa: E731
        streamed = [best(entries, quota, recency) for entries in candidates]
        missed = [
            sum(entry.lately for entry in entries if entry not in kept)
            for entries, kept in zip(candidates, streamed, strict=True)
        ]
        left = max(entry.position for entries in candidates for entry in entries) + 1
        if sum(missed) / HEADS <= self.tolerance:
            self.chosen["streaming_llm"] += 1
            return streamed
        if 1 - quota / left < self.pressure:
            self.chosen["h2o"] += 1
            return [best(entries, quota, lambda entry: entry.mass) for entries in candidates]
        self.chosen["adakv"] += 1
        return pool(0.2)(state, candidates, quota, row)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    chosen = Counter()
    for seed in seeds:
        rule = Switching(tolerance=(0.0, 0.2, 0.3, 1.0)[seed % 4], pressure=(0.4, 0.6, 0.8)[seed % 3])
        compare(seed, AdaptiveScheduler(rule.tolerance, rule.pressure), rule, quota=64 + seed)
        chosen += rule.chosen
    assert set(chosen) == {"streaming_llm", "h2o", "adakv"}


def candidates(lately, left):
    """Return the entries of two heads of two sequences, of which the first was attended to most."""
    positions = torch.arange(6).expand(2, 2, 6) + 4  # no sinks
    mass = torch.tensor([9.0, 1, 2, 3, 4, 5]).expand(2, 2, 6)
    return Candidates(positions, {"mass": mass, "lately": lately}, 0, 100, 0, left, quotas=[3, 3])


def test_each_sequence_is_decided_about_by_itself():
    lately = torch.zeros(2, 2, 6)
    lately[0, 0, 0] = 0.4  # the first sequence looks back to its first entry, in one of its two heads
    scheduler, entries = AdaptiveScheduler(tolerance=0.2), candidates(lately, left=6)
    kept = scheduler.select(scheduler.scores(entries), entries)
    assert kept[1, 0].nonzero()[:, 0].tolist() == [3, 4, 5] == kept[0, 0].nonzero()[:, 0].tolist()
    scheduler = AdaptiveScheduler(tolerance=0.19)  # 0.4 in one of two heads are 0.2
    kept = scheduler.select(scheduler.scores(entries), entries)
    assert kept[1, 1].nonzero()[:, 0].tolist() == [3, 4, 5] and kept[0, 1].nonzero()[:, 0].tolist() == [0, 4, 5]


def test_attention_fades_by_half_in_a_page():
    scheduler, nothing = AdaptiveScheduler(), torch.zeros(1, 1, 2, dtype=torch.float64)
    seen = {"mass": nothing, "lately": nothing}
    seen = scheduler.observe(seen, torch.tensor([[[48.0, 16.0]]], dtype=torch.float64), 0, PAGE, PAGE)
    assert seen["lately"].tolist() == [[[0.375, 0.125]]]  # 64 tokens gave 3/4 and 1/4 of their attention
    for length in range(PAGE):
        seen = scheduler.observe(seen, torch.tensor([[[0.0, 1.0]]], dtype=torch.float64), 0, PAGE + length + 1, 1)
    torch.testing.assert_close(seen["lately"], torch.tensor([[[0.1875, 0.5625]]], dtype=torch.float64))
    assert seen["mass"].tolist() == [[[48.0, 80.0]]]


def test_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"tolerance is a share and must be in \[0, 1\], got -0.1"):
        AdaptiveScheduler(tolerance=-0.1)
    with pytest.raises(ValueError, match=r"pressure is a share and must be in \[0, 1\], got 2"):
        PiKVCache(scheduler=AdaptiveScheduler(pressure=2), max_tokens=1000)
