"""LRU+ weighs age against use, as a dense implementation does."""

from __future__ import annotations

import pytest

from pikvpress.schedulers import LRUPlusScheduler
from tests.schedulers.dense import by_page
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    for seed in seeds:
        weight = (0.0, 1.0, 2.5)[seed % 3]
        rule = by_page(lambda entry, state, weight=weight: weight * entry.uses - (state.length - 1 - entry.last))
        compare(seed, LRUPlusScheduler(weight=weight), rule, quota=64 + 2 * seed)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight is the value of a use, in tokens of age, and must be at least 0: -1"):
        LRUPlusScheduler(weight=-1)
