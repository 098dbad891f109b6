"""Budgets that shrink from layer to layer."""

from __future__ import annotations

import itertools

import pytest

from pikvpress.budgets import pyramid_counts


def test_it_is_an_arithmetic_sequence():
    counts = pyramid_counts(5, 1000, 100, 0.5)
    assert counts == [150, 125, 100, 75, 50]
    assert pyramid_counts(4, 1000, 100, 0.0) == [100] * 4
    assert pyramid_counts(1, 1000, 100, 0.9) == [100]


@pytest.mark.parametrize("layers", [1, 2, 7, 30])
@pytest.mark.parametrize("num_kept", [1, 3, 60, 90, 100])
@pytest.mark.parametrize("steepness", [0.0, 0.5, 0.95])
def test_the_budget_is_spent_whole_and_no_layer_has_more_than_there_is(layers, num_kept, steepness):
    counts = pyramid_counts(layers, 100, num_kept, steepness)
    assert sum(counts) == layers * num_kept
    assert min(counts) >= 1 and max(counts) <= 100
    assert all(first >= last - 1 for first, last in itertools.pairwise(counts))


def test_bad_steepness():
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        pyramid_counts(3, 100, 50, 1)
