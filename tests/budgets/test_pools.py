"""One pool for a layer, or for all layers."""

from __future__ import annotations

import torch

from pikvpress.budgets import ModelShape
from pikvpress.budgets.pooled import pooled
from pikvpress.budgets.pools import LayerPoolBudget, ModelPoolBudget
from tests.budgets.test_decision import scored


def test_a_layer_s_pool_is_spent_in_that_layer():
    (decision,) = LayerPoolBudget().decide(scored(0, 40), 0.5)
    assert int(decision.kept.sum()) == 2 * 20
    assert torch.equal(decision.kept, pooled([scored(0, 40).scores], 20)[0])


def test_a_model_s_pool_waits_for_the_last_layer_that_is_compressed():
    budget = ModelPoolBudget(shape=ModelShape(4, 2, 4, torch.float32, (1, 3)))
    layers = [scored(1, 40), scored(3, 40)]
    assert budget.decide(layers[0], 0.75) == []
    decisions = budget.decide(layers[1], 0.75)
    assert [decision.layer for decision in decisions] == layers
    assert sum(int(decision.kept.sum()) for decision in decisions) == 4 * 10
