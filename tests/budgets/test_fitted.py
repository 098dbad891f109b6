"""Fitted budgets give tokens to the heads whose error they reduce most."""

from __future__ import annotations

from pikvpress.budgets.curves import counts_by_curves
from pikvpress.budgets.fitted import FittedBudget
from tests.budgets.test_decision import scored
from tests.conftest import make_tiny
from tests.helpers import top, uneven_gates


def test_each_head_keeps_its_best_scores_as_many_as_the_curves_say():
    gates = uneven_gates(make_tiny())
    budget = FittedBudget(gates)
    for length in (40, 60):  # another context, another count
        layer = scored(1, length)
        (decision,) = budget.decide(layer, 0.5)
        counts = counts_by_curves(gates, 0.5, length, length // 2)[1].tolist()
        assert decision.head_tokens() == counts and counts[0] > counts[1]
        for head, count in enumerate(counts):
            kept = decision.kept[0, head].nonzero().flatten()
            assert kept.tolist() == top(layer.scores[0, head], count).tolist()
