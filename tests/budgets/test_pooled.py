"""One pool of tokens for several heads, with a floor."""

from __future__ import annotations

import pytest
import torch

from pikvpress.budgets import pooled


def random_scores(layers=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 3, 50, generator=generator) for _ in range(layers)]


@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
def test_the_highest_are_kept_and_the_floor_holds(floor):
    scores = random_scores()
    kept = pooled(scores, 10, floor)
    together, all_scores = torch.cat(kept, dim=1), torch.cat(scores, dim=1)
    assert (together.sum(dim=(1, 2)) == 6 * 10).all()
    counts = together.sum(dim=-1)
    assert counts.min() >= max(1, 10 * floor)
    assert floor < 1 or (counts == 10).all()
    for row in range(2):
        lowest = all_scores[row][together[row]].min()
        above_floor = [head for head in range(6) if counts[row, head] > max(1, 10 * floor)]
        for head in above_floor:  # whatever such a head drops scores below everything kept above the floor
            assert all_scores[row, head][~together[row, head]].max() <= all_scores[row, head][together[row, head]].min()
        assert floor > 0.1 or lowest > 0.5


def test_a_head_with_all_the_mass_takes_what_the_floor_leaves():
    scores = torch.zeros(1, 2, 20)
    scores[0, 1] = torch.arange(20) + 1.0
    (kept,) = pooled([scores], 10, 0.2)
    assert kept.sum(dim=-1).tolist() == [[2, 18]]


def test_bad_floor():
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        pooled(random_scores(), 10, 1.5)
