"""Lower convex hulls of error curves."""

from __future__ import annotations

import random

import pytest

from pikvpress.budgets.hull import pieces_of_hull


def test_points_above_the_hull_are_left_out_and_slopes_fall():
    pieces = pieces_of_hull([0, 1, 2, 4], [10.0, 9.0, 2.0, 1.0])
    assert [(first, last) for _, first, last in pieces] == [(0, 2), (2, 3)]
    assert [slope for slope, _, _ in pieces] == [4.0, 0.5]


def test_what_is_no_better_is_flat_and_the_best_of_one_size_counts():
    assert pieces_of_hull([0, 1, 2], [5.0, 1.0, 3.0])[-1][0] == 0
    assert pieces_of_hull([0, 1, 1], [5.0, 3.0, 2.0]) == [(3.0, 0, 2)]
    assert pieces_of_hull([3], [1.0]) == []


def on_hull(sizes, errors, point):
    """Return whether a point lies strictly below every line between a smaller and a larger one."""
    left = [(errors[point] - errors[i]) / (sizes[point] - sizes[i]) for i in range(point)]
    right = [(errors[i] - errors[point]) / (sizes[i] - sizes[point]) for i in range(point + 1, len(sizes))]
    return not left or not right or max(left) < min(right)


@pytest.mark.parametrize("seed", range(20))
def test_ends_are_the_points_below_all_lines_between_others(seed):
    draw = random.Random(seed)
    sizes = sorted(draw.sample(range(1000), 60))
    errors = [1000 / (1 + size) + draw.choice([0, 0, draw.random() * 300]) for size in sizes]
    errors[0] = max(errors) + 1
    least = [min(errors[: point + 1]) for point in range(len(sizes))]  # a larger size need not be used in full
    ends = [0, *(last for _, _, last in pieces_of_hull(sizes, errors))]
    assert ends == [point for point in range(len(sizes)) if on_hull(sizes, least, point)]
    slopes = [slope for slope, _, _ in pieces_of_hull(sizes, errors)]
    assert slopes == sorted(slopes, reverse=True)
