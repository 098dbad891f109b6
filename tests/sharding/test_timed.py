"""Ranks of unequal speed: the slowest one, against all placements and against bytes that can be divided freely."""

from __future__ import annotations

import itertools
import random

import pytest

from pikvpress.sharding import Placement, RankSpeed, divided, earliest_first, least_seconds, longest_first, slowest


def best(sizes: list[float], speeds: list[RankSpeed]) -> float:
    """Return the least time of the slowest rank, by trying all placements of whole heads."""
    return min(
        max(
            speed.seconds(sum(size for size, place in zip(sizes, places, strict=True) if place == rank))
            for rank, speed in enumerate(speeds)
        )
        for places in itertools.product(range(len(speeds)), repeat=len(sizes))
    )


def drawn(seed: int, latency: float) -> tuple[list[float], list[RankSpeed]]:
    draw = random.Random(seed)
    speeds = [RankSpeed(draw.choice((1.0, 2.0, 4.0)), draw.randint(0, 3), latency) for _ in range(draw.randint(1, 3))]
    return [draw.expovariate(1) for _ in range(draw.randint(1, 7))], speeds


@pytest.mark.parametrize("seed", range(20))
def test_without_latency_the_slowest_rank_is_within_the_bound(seed):
    sizes, speeds = drawn(seed, 0.0)
    taken, least = slowest(earliest_first(divided(sizes), speeds), speeds), best(sizes, speeds)
    assert least_seconds(sum(sizes), speeds) <= least + 1e-12 <= taken + 2e-12
    assert taken <= 2 * len(speeds) / (len(speeds) + 1) * least + 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_with_latency_it_is_near_the_best_placement_and_never_below(seed):
    sizes, speeds = drawn(seed, 0.3)
    taken, least = slowest(earliest_first(divided(sizes), speeds), speeds), best(sizes, speeds)
    assert least_seconds(sum(sizes), speeds) <= least + 1e-12 <= taken + 2e-12
    assert taken <= 1.5 * least


def test_a_far_rank_takes_less_and_a_very_far_one_nothing():
    pieces, near = divided([1.0] * 8), RankSpeed(1.0)
    assert earliest_first(pieces, [near, RankSpeed(1.0, hops=2, seconds_per_hop=1.0)]).loads == [5, 3]
    assert earliest_first(pieces, [near, RankSpeed(1.0, hops=9, seconds_per_hop=1.0)]).loads == [8, 0]
    assert earliest_first(pieces, [near, RankSpeed(3.0)]).loads == [2, 6]


def test_equal_ranks_are_as_with_longest_first():
    pieces = divided([90, 12, 11, 9, 8, 7, 6, 5], 16)
    assert earliest_first(pieces, [RankSpeed(2.0)] * 4) == longest_first(pieces, 4)


def test_bytes_that_can_be_divided_freely():
    near, far = RankSpeed(2.0), RankSpeed(1.0, hops=1, seconds_per_hop=3.0)
    assert least_seconds(4, [near, far]) == 2  # the far one would not be asked
    assert least_seconds(9, [far, near]) == 4  # 8 bytes on the near one, 1 on the far one after 3 seconds
    assert least_seconds(0, [far]) == 0 and far.seconds(0) == 0 and slowest(Placement(((),)), [far]) == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"bandwidth .* got 0"):
        RankSpeed(0)
    with pytest.raises(ValueError, match="at least 0 and finite, got -1"):
        RankSpeed(1, hops=-1)
    with pytest.raises(ValueError, match="at least 1 rank"):
        earliest_first([], [])
