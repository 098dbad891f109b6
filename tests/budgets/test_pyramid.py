"""Each layer keeps fewer than the one before."""

from __future__ import annotations

import torch

from pikvpress.budgets import ModelShape
from pikvpress.budgets.pyramid import PyramidBudget
from tests.budgets.test_decision import scored


def test_layers_keep_less_and_less_and_no_more_in_all():
    compressed = (0, 2, 3)
    budget = PyramidBudget(shape=ModelShape(4, 2, 4, torch.float32, compressed))
    kept = [budget.decide(scored(index, 90), 0.5)[0].kept for index in compressed]
    assert kept[0] > kept[1] > kept[2] and sum(kept) == 3 * 45
