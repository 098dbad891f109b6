"""DuoAttention: retrieval heads hold everything, the others stream, as in a dense implementation."""

from __future__ import annotations

import pytest
import torch

from pikvpress.schedulers import DuoScheduler
from tests.schedulers.dense import best
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


def stream_or_hold(importance, recent):
    """Return the rule: the most important heads take what the others need not have to stream."""

    def rule(state, candidates, quota, row):
        least = min(quota, 4 + recent)
        counts, spare = [least] * len(candidates), len(candidates) * (quota - least)
        for head in sorted(range(len(candidates)), key=lambda head: importance[head], reverse=True):
            left = max(entry.position for entry in candidates[head]) + 1
            taken = min(max(0, left - least), spare)
            counts[head], spare = least + taken, spare - taken
        score = lambda entry: 10**9 if entry.position < 4 else entry.position  # noqa: E731
        return [best(entries, count, score) for entries, count in zip(candidates, counts, strict=True)]

    return rule


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    for seed in seeds:
        importance = [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7), (0.5, 0.5)][seed % 4]
        scheduler = DuoScheduler(recent=seed, importance=torch.tensor([importance]))
        compare(seed, scheduler, stream_or_hold(importance, seed), quota=64 + 3 * seed)


def test_a_retrieval_head_holds_everything_that_fits():
    scheduler = DuoScheduler(recent=0, importance=torch.tensor([[0, 1]]))
    cache, dense = compare(6, scheduler, stream_or_hold((0, 1), 0), quota=240)
    streaming, retrieval = cache.layers[0].counts()[0]
    assert retrieval == dense.rows[0].length > 300 > streaming


def test_bad_input():
    with pytest.raises(ValueError, match="recent is a number of entries and must be at least 0, got -1"):
        DuoScheduler(recent=-1)
    with pytest.raises(ValueError, match=r"importance has shape \(2, 3\), but this model needs \(1, 2\)"):
        compare(0, DuoScheduler(importance=torch.ones(2, 3)), None, quota=64)
