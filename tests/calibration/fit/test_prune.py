"""Pruning experts that are not worth their time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.prune import NEVER, leave_one, prune
from pikvpress.calibration.fit.routers import predicted
from tests.calibration.tiny import NAMES, RECIPE, make_router


def pruned(records, times, worth):
    router, steps = make_router(), []
    with torch.no_grad():
        router.evidence.zero_()
    budgets = HeadBudgets(replace(RECIPE, worth_of_time=worth))
    before = predicted(router, records, budgets)
    prune(router, records, budgets, times, steps.append)
    assert steps == ["pruning"] * 2
    return router, (predicted(router, records, budgets) / before).mean().item()


def used(router):
    return (router.static > NEVER / 2).all(dim=1)  # (layers, experts); the same for all heads of a layer


def test_time_without_worth_takes_away_only_what_does_harm(records):
    router, change = pruned(records, [0.1] * len(NAMES), worth=0)
    assert change <= 1 + 1e-6 and used(router).any(dim=1).all()


def test_much_worth_leaves_one_expert_a_layer_and_none_that_is_slow(records):
    times = [0.1] * len(NAMES)
    times[0] = 50.0
    router, _ = pruned(records, times, worth=1e3)
    assert used(router).sum(dim=1).tolist() == [1, 1] and not used(router)[:, 0].any()


def test_what_is_saved_is_worth_what_is_lost(records):
    times = [0.2] * len(NAMES)
    router, change = pruned(records, times, worth=1.0)
    saved = (~used(router)).float().mean(dim=0) @ torch.tensor(times)
    assert saved > 0 and change - 1 <= saved.item() + 1e-6
    half, less = pruned(records, times, worth=0.02)
    assert used(half).sum() >= used(router).sum() and less <= change + 1e-6


def test_experts_without_probability_are_given_no_weight(records):
    router, _ = pruned(records, [0.1] * len(NAMES), worth=1e3)
    every = torch.ones(len(NAMES), dtype=torch.bool)
    weights = router(0, torch.zeros(1, 2, router.evidence.shape[0]), every).weights
    assert (weights > 0).sum(dim=-1).tolist() == [[1, 1]]
    alone = ~(weights[0, 0] > 0)  # if only experts that are never used can score, they share the weight
    weights = router(0, torch.zeros(1, 2, router.evidence.shape[0]), alone).weights
    assert weights.sum(dim=-1).flatten().tolist() == pytest.approx([1, 1])


def test_one_expert_is_left_the_one_with_most_weight():
    router = make_router()
    with torch.no_grad():
        router.static.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]).expand_as(router.static))
        router.static[0, 0, 3] = 1.5  # the best of one head, but not of all
    leave_one(router)
    every = torch.ones(len(NAMES), dtype=torch.bool)
    for layer in range(2):
        weights = router(layer, torch.zeros(1, 2, router.evidence.shape[0]), every).weights
        assert weights[0].tolist() == [[0, 1, 0, 0]] * 2
