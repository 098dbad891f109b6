"""Choosing options by bytes: within the budget, and close to the best possible choice."""

from __future__ import annotations

import itertools

import pytest
import torch

from pikvpress.budgets import spend_bytes


def best(errors, sizes, budget):
    heads = errors.flatten(0, 1)
    return min(
        sum(heads[i, option].item() for i, option in enumerate(options))
        for options in itertools.product(range(len(sizes)), repeat=len(heads))
        if sum(sizes[option] for option in options) <= budget
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [40, 90, 200, 500])
def test_it_is_nearly_the_optimum(seed, budget):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(5, 100, (6,), generator=generator).tolist()
    sizes[0] = 5
    errors = torch.rand(2, 2, 6, generator=generator) * 100 / torch.tensor(sizes)
    chosen = spend_bytes(errors, sizes, budget)
    assert sum(sizes[option] for option in chosen.flatten().tolist()) <= budget
    found = errors.gather(2, chosen.unsqueeze(-1)).sum().item()
    assert found <= 1.35 * best(errors, sizes, budget) + 1e-6


def test_everything_is_taken_where_there_is_room():
    errors = torch.tensor([[[3.0, 2.0, 0.5, 0.7]], [[1.0, 0.1, 0.2, 0.3]]])
    assert spend_bytes(errors, [1, 2, 3, 4], 100).tolist() == [[2], [1]]


def test_layers_without_a_curve_take_no_part():
    errors = torch.tensor([[[3.0, 1.0]], [[float("nan")] * 2]])
    assert spend_bytes(errors, [1, 5], 5).tolist() == [[1], [-1]]


def test_a_budget_below_the_floor_is_refused():
    with pytest.raises(ValueError, match="11 bytes is below the smallest possible, 12"):
        spend_bytes(torch.rand(2, 3, 2), [2, 9], 11)
