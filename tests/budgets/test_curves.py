"""Looking up the curves of gates by ratio."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.budgets.curves import counts_by_curves, curves_near, nearest, worth_by_curves
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


@pytest.fixture(scope="module")
def gates():
    made = uneven_gates(make_tiny())
    return replace(made, curves=torch.cat([made.curves, 2 * made.curves]), ratios=(0.5, 0.9))


def test_the_nearest_ratio_counts(gates):
    assert [nearest(gates, ratio) for ratio in (0.1, 0.69, 0.71, 1.0)] == [0, 0, 1, 1]
    assert torch.equal(curves_near(gates, 0.95), 2 * curves_near(gates, 0.3))


def test_heads_that_need_tokens_keep_more_of_the_same_total(gates):
    counts = counts_by_curves(gates, 0.5, 100, 50)
    assert counts.sum() == 4 * 50 and (counts[:, 0] > counts[:, 1]).all()


def test_worth_falls_from_token_to_token(gates):
    worth = worth_by_curves(gates, 0.5, 1, 100)
    assert worth.shape == (2, 100) and (worth.diff(dim=1) <= 1e-9).all() and worth[0].sum() > worth[1].sum()


def test_gates_without_curves_are_refused(gates):
    with pytest.raises(ValueError, match="these gates have no error curves: fit new gates"):
        curves_near(replace(gates, curves=None), 0.5)
