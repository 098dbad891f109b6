"""The end-to-end stage: predictions improve, and only the router changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from pikvpress import models
from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.end_to_end import EndToEndLosses, fit_end_to_end, kept_by, real_divergence
from pikvpress.calibration.fit.objectives import OBJECTIVES
from pikvpress.calibration.fit.routers import fit_router
from tests.calibration.tiny import RECIPE, make_router, quiet


def distill(model, router, parameters, examples, budgets, objective="kl", scales=None, epochs=1):
    scales = torch.ones(len(RECIPE.ratios)) if scales is None else scales
    budgets = replace(budgets, recipe=replace(RECIPE, epochs_end_to_end=epochs))
    generator = torch.Generator().manual_seed(0)
    losses = EndToEndLosses(model, router, budgets, OBJECTIVES[objective], scales, generator)
    fit_end_to_end(losses, parameters, examples, quiet)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_end_to_end_stage_moves_the_router_and_nothing_else(objective, model, examples, budgets):
    router = make_router()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    distill(model, router, [router.static], examples[:2], budgets, objective)
    assert not torch.equal(router.static, before["static"]) and router.static.isfinite().all()
    assert torch.equal(router.evidence, before["evidence"])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in models.attention_layers(model))


def test_the_end_to_end_stage_brings_predictions_closer(model, examples, budgets):
    router = make_router()
    before = real_divergence(model, router, examples, budgets, quiet)
    distill(model, router, [router.static], examples, budgets, scales=before, epochs=30)
    after = real_divergence(model, router, examples, budgets, quiet)
    assert (after / before).mean() < 1


def test_dropout_drops_features_in_the_end_to_end_stage_too(model, examples, budgets):
    moved = []
    for dropout in (0.0, 0.5, 0.5):
        router = make_router(dropout=dropout)
        distill(model, router, [router.evidence], examples[:2], budgets)
        moved.append(router.evidence.detach())
        assert not router.training
    assert torch.equal(moved[1], moved[2]) and not torch.equal(moved[0], moved[1])


def test_gradients_of_an_earlier_stage_do_not_count(model, records, examples, budgets):
    routers = [make_router(), make_router()]
    fit_router(routers[0], [routers[0].static], records[:1], budgets, 1, quiet)
    routers[1].load_state_dict(routers[0].state_dict())
    assert routers[0].static.grad.any() and routers[1].static.grad is None
    for router in routers:
        distill(model, router, [router.static], examples[:2], budgets)
    assert torch.equal(routers[0].static, routers[1].static)


def test_students_keep_what_budgets_say(model, records, situations, budgets):
    context = records[0].context(model.device, model.dtype)
    full = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([situations[0].context]), past_key_values=full)
    for layer, theirs in zip(context.cache.layers, full.layers, strict=True):
        torch.testing.assert_close(layer.keys, theirs.keys, atol=1e-2, rtol=1e-2)
    router = make_router()
    for used in (HeadBudgets(RECIPE), budgets):
        kept = kept_by(router, context, 1, used)
        for layer in range(2):
            counts = used.counts(1, 110, layer, 2)
            assert torch.equal(kept[layer].detach().round().sum(dim=-1).long(), counts)
            assert used is budgets or counts.tolist() == [27, 27]
