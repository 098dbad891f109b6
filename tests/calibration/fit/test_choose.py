"""The choice of experts."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.fit import choose
from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.choose import blend_by_costs, choose_experts, expert_costs
from pikvpress.calibration.measure.cost import selection_cost
from pikvpress.calibration.measure.selection import kept_keys
from pikvpress.calibration.recipe import Recipe
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from tests.calibration.tiny import NAMES, RECIPE, quiet

SHARES = (0.15, 0.6, 0.01, 0.24)


class Layers:
    layers = (0, 2)  # layer 1 has sliding-window attention


def chosen(monkeypatch, shares, **changes):
    def fitted(router, parameters, records, budgets, epochs, progress):
        with torch.no_grad():
            parameters[0][[0, 2]] = torch.tensor(shares).log()

    monkeypatch.setattr(choose, "fit_router", fitted)
    router = ROUTERS["static"]([1.0] * 4, feature_names("abcd"), 3, 2, RouterSettings())
    return choose_experts(router, [Layers()], Recipe(**changes), quiet)


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 3])])
def test_those_that_the_blend_leans_on_are_chosen(most, expected, monkeypatch):
    assert chosen(monkeypatch, SHARES, max_experts=most) == expected


def test_two_are_left_even_if_no_share_is_large(monkeypatch):
    assert chosen(monkeypatch, SHARES, max_experts=3, worth=0.9) == [1, 3]
    assert chosen(monkeypatch, SHARES, max_experts=1, worth=0.9) == [1]


def test_fitting_starts_from_the_experts_that_cost_least(records):
    costs = expert_costs(records, 2, 2, RECIPE, quiet)
    expected = torch.empty(len(RECIPE.ratios), 2, 2, len(NAMES))
    for ratio in range(len(RECIPE.ratios)):
        for index in range(2):
            layer, counts = records[0].layer(index), HeadBudgets(RECIPE).counts(ratio, 110, index, 2)
            for expert in range(len(NAMES)):
                kept = kept_keys(layer.seen.ranks[ratio, :, expert], counts, RECIPE.softness)
                expected[ratio, index, :, expert] = selection_cost(layer.reading, kept)
    expected = (expected / expected.mean(dim=(1, 2, 3), keepdim=True)).mean(dim=0)
    torch.testing.assert_close(expert_costs(records[:1], 2, 2, RECIPE, quiet), expected)
    logits = blend_by_costs(torch.tensor([[1.0, 2.0, 4.0]]), 2.0)
    torch.testing.assert_close(logits.exp(), torch.tensor([[1.0, 1 / 4, 1 / 16]]))
    assert (blend_by_costs(costs, 2.0).argmax(dim=-1) == costs.argmin(dim=-1)).all()
