"""Checks of the numbers in a recipe."""

from __future__ import annotations

import pytest

from pikvpress.calibration import Recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0}, "minutes must be more than 0, got 0"),
        ({"contexts": 1}, "at least 2 contexts are needed, got 1"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"held_out_documents": 1}, "held_out_documents must be at least 2, got 1"),
        ({"ratios": (0.5, 0.25)}, "ratios must be ascending and between 0 and 1"),
        ({"ratios": ()}, "ratios must be ascending"),
        ({"ratios": (0.5, 1.0)}, "ratios must be ascending"),
        ({"keep_shares": (0.5, 0.25)}, "keep_shares must be descending from 1"),
        ({"keep_shares": (1.0, 0.0)}, "keep_shares must be descending from 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


@pytest.mark.parametrize(("count", "held"), [(2, 3), (4, 4), (16, 10), (40, 10), (64, 16)])
def test_few_contexts_need_fewer_to_decide(count, held):
    assert Recipe().held_out_for(count) == held


def test_time_decides_how_many_contexts_there_are():
    assert [Recipe().contexts_for(seconds) for seconds in (0.1, 1, 3, 100)] == [64, 18, 6, 4]
    assert Recipe(minutes=30).contexts_for(1) == 36 and Recipe(contexts=7).contexts_for(1) == 7


def test_measurements_are_told_apart_only_where_they_differ():
    assert Recipe(epochs=1, seed=3).changed_measurements() == {}
    assert Recipe(ratios=(0.5,)).changed_measurements() == {"ratios": (0.5,)}
