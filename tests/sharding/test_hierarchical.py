"""Groups stay on one node, and the example of EPLB is placed as EPLB places it."""

from __future__ import annotations

import itertools
import random

import pytest

from pikvpress.sharding import hierarchical

# The example on https://github.com/deepseek-ai/EPLB: 12 experts in 4 groups, 2 nodes of 4 ranks, 16 pieces a layer.
LAYERS = (
    (90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86),
    (20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27),
)
EXPERTS = (
    (5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1),
    (7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1),
)


@pytest.mark.parametrize(("sizes", "experts"), zip(LAYERS, EXPERTS, strict=True))
def test_nodes_hold_the_experts_that_they_hold_in_the_example_of_eplb(sizes, experts):
    placement = hierarchical(sizes, groups=4, nodes=2, ranks=8, extra=2, most=2)
    nodes = [
        sorted(piece.head for pieces in placement.ranks[first : first + 4] for piece in pieces) for first in (0, 4)
    ]
    assert nodes == [sorted(experts[:8]), sorted(experts[8:])]
    known = [sum(sizes[expert] / experts.count(expert) for expert in experts[i : i + 2]) for i in range(0, 16, 2)]
    assert max(placement.loads) <= max(known)


@pytest.mark.parametrize("seed", range(12))
def test_whole_groups_on_nodes_are_within_the_bounds_of_the_best_placement(seed):
    """The bound of longest first, once for groups on nodes and once for heads on ranks, and never below the optimum."""
    draw = random.Random(seed)
    sizes = [draw.expovariate(1) for _ in range(6)]
    placement, least = hierarchical(sizes, groups=3, nodes=2, ranks=4), best(sizes, groups=3)
    assert least <= max(placement.loads) + 1e-12
    nodes = [sum(placement.loads[:2]), sum(placement.loads[2:])]
    groups = [sum(sizes[i : i + 2]) for i in (0, 2, 4)]
    fullest = min(max(sum(groups[i] for i in part), sum(groups) - sum(groups[i] for i in part)) for part in subsets(3))
    assert max(nodes) <= 7 / 6 * fullest + 1e-12
    for group in range(3):
        on = {rank // 2 for rank, pieces in enumerate(placement.ranks) for piece in pieces if piece.head // 2 == group}
        assert len(on) == 1


def best(sizes: list[float], groups: int) -> float:
    """Return the smallest load of the fullest of 2 × 2 ranks, if whole groups are on nodes."""
    number, answers = len(sizes) // groups, []
    for nodes in itertools.product(range(2), repeat=groups):
        fullest = 0.0
        for node in range(2):
            mine = [size for head, size in enumerate(sizes) if nodes[head // number] == node]
            fullest = max(
                fullest,
                min(
                    max(sum(mine[i] for i in one), sum(mine) - sum(mine[i] for i in one)) for one in subsets(len(mine))
                ),
            )
        answers.append(fullest)
    return min(answers)


def subsets(count: int) -> list[tuple[int, ...]]:
    return [one for size in range(count + 1) for one in itertools.combinations(range(count), size)]


def test_one_node_is_longest_first_and_nodes_without_groups_stay_empty():
    placement = hierarchical([4, 3, 2, 1], groups=1, nodes=2, ranks=4)
    assert placement.loads == [5, 5, 0, 0]
    assert hierarchical([8, 1], groups=2, nodes=1, ranks=3, extra=1).loads == [4, 4, 1]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="5 heads cannot be 2 equal groups"):
        hierarchical([1] * 5, groups=2, nodes=1, ranks=1)
    with pytest.raises(ValueError, match="3 ranks cannot be 2 equal nodes"):
        hierarchical([1, 1], groups=2, nodes=2, ranks=3)
    with pytest.raises(ValueError, match=r"extra .* got -1"):
        hierarchical([1, 1], groups=2, nodes=1, ranks=1, extra=-1)
    with pytest.raises(ValueError, match="cannot take 4: raise most"):
        hierarchical([1] * 4, groups=4, nodes=2, ranks=2, most=1)
    with pytest.raises(ValueError, match="finite numbers"):
        hierarchical([1, -1], groups=2, nodes=1, ranks=1)
