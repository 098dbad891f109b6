"""Equal budgets are those of kvpress."""

from __future__ import annotations

from kvpress.utils import compute_n_kept

from pikvpress.budgets.equal import EqualBudget
from tests.budgets.test_decision import scored


def test_every_head_keeps_what_kvpress_keeps():
    for length, ratio in ((10, 0.33), (3, 0.9), (100, 0.5)):
        (decision,) = EqualBudget().decide(scored(num_keys=length), ratio)
        assert decision.kept == max(1, compute_n_kept(length, ratio))
