"""Fitting routers on tiny models: fitting must reduce the loss, and the settings must do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.routers import LayerLosses, fit_router, predicted
from pikvpress.routers import ROUTERS
from pikvpress.routers.losses import imbalance, switch_loss
from tests.calibration.tiny import RECIPE, make_router, quiet

EQUAL = HeadBudgets(RECIPE)


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_is_fitted(name, records, budgets):
    router = make_router(name)
    before = predicted(router, records, EQUAL)
    fit_router(router, list(router.parameters()), records, EQUAL, 15, quiet)
    assert predicted(router, records, EQUAL).sum() < before.sum()
    assert not router.training


def test_fitting_serves_the_budgets_that_it_is_told(records, budgets):
    router = make_router()
    before = predicted(router, records, budgets)
    fit_router(router, [router.static], records, budgets, 15, quiet)
    assert predicted(router, records, budgets).sum() < before.sum()


def fitted(records, name, epochs=2, seed=0, **settings):
    """Return a router that was fitted with some settings."""
    router = make_router(name, **settings)
    budgets = HeadBudgets(replace(RECIPE, seed=seed))
    fit_router(router, [router.static, router.evidence], records, budgets, epochs, quiet)
    return router


def test_the_same_seed_fits_the_same_router(records):
    first, again = (fitted(records, "pikv", dropout=0.3) for _ in range(2))
    other = fitted(records, "pikv", seed=1, dropout=0.3)
    assert torch.equal(first.static, again.static) and torch.equal(first.evidence, again.evidence)
    assert not torch.equal(first.evidence, other.evidence)


def loss(records, name, dense=False, **settings):
    """Return the loss of a router's first layer, and its routing."""
    router = make_router(name, **settings)
    with torch.no_grad():
        router.static.copy_(torch.randn(router.static.shape, generator=torch.Generator().manual_seed(0)))
    layer = records[0].layer(0)
    probabilities = router.probabilities(0, layer.seen.features[1].unsqueeze(0), torch.ones(4, dtype=torch.bool))
    chosen = router.select(probabilities, torch.ones(4, dtype=torch.bool))
    found = LayerLosses(router, EQUAL, torch.ones(3)).of(0, layer, 1, dense)
    return found.item(), probabilities, chosen


@pytest.mark.parametrize("weight", [0.0, 0.01, 2.0])
def test_aux_loss_weight_weighs_the_switch_loss(weight, records):
    found, probabilities, chosen = loss(records, "base", top_k=2, aux_loss_weight=weight)
    without = loss(records, "base", top_k=2, aux_loss_weight=0.0)[0]
    assert found - without == pytest.approx(weight * switch_loss(probabilities, chosen).item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("mode", ["entropy", "variance", "gini"])
def test_balance_mode_and_coefficient_say_what_imbalance_costs(mode, records):
    found, probabilities, _ = loss(records, "topk_balanced", balance_mode=mode, balance_coefficient=3.0)
    without = loss(records, "topk_balanced", balance_mode=mode, balance_coefficient=0.0)[0]
    assert found - without == pytest.approx(3 * imbalance(probabilities, mode).item(), rel=1e-4)


def unevenness(router):
    """Return how uneven the mean probabilities of a layer's experts are without features."""
    layers = router.static.detach().softmax(dim=-1)
    return sum(imbalance(layer, "variance").item() for layer in layers)


def test_a_large_aux_loss_weight_fits_more_even_use(records):
    plain, even = (fitted(records, "base", 6, top_k=2, aux_loss_weight=weight) for weight in (0.0, 5.0))
    assert unevenness(even) < unevenness(plain)


def test_a_large_balance_coefficient_fits_more_even_use(records):
    plain, even = (fitted(records, "topk_balanced", 6, balance_coefficient=weight) for weight in (0.0, 5.0))
    assert unevenness(even) < unevenness(plain)


def test_every_balance_mode_fits_another_router(records):
    modes = [
        fitted(records, "topk_balanced", balance_mode=m, balance_coefficient=1.0)
        for m in ("entropy", "variance", "gini")
    ]
    assert not any(torch.equal(a.static, b.static) for a, b in zip(modes, [*modes[1:], modes[0]], strict=True))


def test_dropout_drops_features_only_while_routers_are_fitted(records):
    plain, dropping = (fitted(records, "pikv", dropout=share) for share in (0.0, 0.5))
    assert not torch.equal(plain.evidence, dropping.evidence)
    features = records[0].layer(0).seen.features[0].unsqueeze(0)
    first, again = (dropping(0, features, torch.ones(4, dtype=torch.bool)).weights for _ in range(2))
    assert torch.equal(first, again) and not dropping.training
