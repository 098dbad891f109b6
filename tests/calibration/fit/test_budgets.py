"""Error curves, and how many tokens heads keep according to them."""

from __future__ import annotations

from pikvpress.calibration.fit.budgets import HeadBudgets
from tests.calibration.tiny import RECIPE


def test_error_curves_fall_to_nothing_where_everything_is_kept(budgets):
    assert budgets.curves.shape == (len(RECIPE.ratios), 2, 2, len(RECIPE.keep_shares))
    assert budgets.curves[..., 0].abs().max() < 1e-6
    assert (budgets.curves[..., -1] > budgets.curves[..., 1]).all()


def test_fitted_budgets_have_the_sum_of_equal_ones(budgets):
    for ratio in range(len(RECIPE.ratios)):
        equal = HeadBudgets(RECIPE).counts(ratio, 110, 0, 2)
        assert sum(budgets.counts(ratio, 110, layer, 2).sum() for layer in range(2)) == 2 * equal.sum()
