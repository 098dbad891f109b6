"""Placements against every other placement on small cases, and against what the rules promise."""

from __future__ import annotations

import itertools
import random

import pytest

from benchmarks.scaling.heads import shipped_sizes
from pikvpress.sharding import HeadPiece, Placement, divided, longest_first, round_robin


def best(sizes: list[float], ranks: int) -> float:
    """Return the smallest possible load of the fullest rank, by trying all placements of whole heads."""
    return min(
        max(sum(size for size, rank in zip(sizes, places, strict=True) if rank == one) for one in range(ranks))
        for places in itertools.product(range(ranks), repeat=len(sizes))
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_fullest_rank_is_within_the_bound_of_the_best_placement(seed):
    draw = random.Random(seed)
    ranks, sizes = draw.randint(1, 3), [draw.expovariate(1) for _ in range(draw.randint(1, 8))]
    placement = longest_first(divided(sizes), ranks)
    fullest, least = max(placement.loads), best(sizes, ranks)
    assert least <= fullest + 1e-12 and fullest <= (4 / 3 - 1 / (3 * ranks)) * least + 1e-12
    assert sorted(piece.head for pieces in placement.ranks for piece in pieces) == list(range(len(sizes)))


def test_the_example_of_the_bound_is_reached():
    """Graham's worst case: 5, 5, 4, 4, 3, 3, 3 on three ranks can be 9 each, and longest first makes it 11."""
    placement = longest_first(divided([5, 5, 4, 4, 3, 3, 3]), 3)
    assert best([5, 5, 4, 4, 3, 3, 3], 3) == 9 and max(placement.loads) == 11


def test_the_largest_head_is_divided_first():
    pieces = divided([8, 2, 3], 6)
    parts = [(piece.head, piece.part, piece.parts) for piece in pieces]
    assert parts == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 1), (2, 0, 2), (2, 1, 2)]
    assert [piece.size for piece in pieces] == [8 / 3, 8 / 3, 8 / 3, 2, 1.5, 1.5]


def test_divided_heads_balance_what_whole_heads_cannot():
    sizes = [100.0, 5, 5, 5, 5]
    assert longest_first(divided(sizes), 4).imbalance > 3
    assert longest_first(divided(sizes, 20), 4).imbalance < 1.05
    whole = round_robin(divided(sizes), 4)
    assert whole.loads == [105, 5, 5, 5] and whole.imbalance == 3.5


@pytest.mark.parametrize("ranks", range(2, 9))
def test_the_shipped_gates_heads_are_balanced(ranks):
    """The plan at 1/8 of the bytes, with heads of all layers."""
    sizes = shipped_sizes()
    packed, dealt = longest_first(divided(sizes), ranks), round_robin(divided(sizes), ranks)
    assert packed.imbalance <= 1.05 and packed.imbalance < dealt.imbalance


def test_a_rank_takes_no_more_pieces_than_it_may():
    placement = longest_first(divided([9, 1, 1, 1]), 2, most=2)
    assert [len(pieces) for pieces in placement.ranks] == [2, 2] and sorted(placement.loads) == [2, 10]


def test_more_ranks_than_heads_leave_some_empty():
    placement = longest_first(divided([2, 1]), 4)
    assert placement.loads == [2, 1, 0, 0] and placement.ranks[3] == ()
    assert longest_first(divided([0, 0]), 2).imbalance == 1 == Placement(((HeadPiece(0, 0, 1, 3.0),),)).imbalance


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"finite numbers of at least 0.*-1"):
        divided([1, -1])
    with pytest.raises(ValueError, match="got none"):
        divided([])
    with pytest.raises(ValueError, match="finite"):
        divided([float("nan")])
    with pytest.raises(ValueError, match="3 heads cannot be 2 pieces"):
        divided([1, 2, 3], 2)
    with pytest.raises(ValueError, match="at least 1 rank"):
        longest_first(divided([1]), 0)
    with pytest.raises(ValueError, match="cannot take 3"):
        longest_first(divided([1, 2, 3]), 2, most=1)
