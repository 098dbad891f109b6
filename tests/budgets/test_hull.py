"""Lower convex hulls of error curves."""

from __future__ import annotations

from pikvpress.budgets.hull import pieces_of_hull


def test_points_above_the_hull_are_left_out_and_slopes_fall():
    pieces = pieces_of_hull([0, 1, 2, 4], [10.0, 9.0, 2.0, 1.0])
    assert [(first, last) for _, first, last in pieces] == [(0, 2), (2, 3)]
    assert [slope for slope, _, _ in pieces] == [4.0, 0.5]


def test_what_is_no_better_is_flat_and_the_best_of_one_size_counts():
    assert pieces_of_hull([0, 1, 2], [5.0, 1.0, 3.0])[-1][0] == 0
    assert pieces_of_hull([0, 1, 1], [5.0, 3.0, 2.0]) == [(3.0, 0, 2)]
    assert pieces_of_hull([3], [1.0]) == []
