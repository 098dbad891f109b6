"""Which stages of a fit are kept, judged on held-out contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.calibration.fit import gates
from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.gates import Examples, Fitting
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from tests.calibration.tiny import RECIPE, quiet


def fitted(monkeypatch, divergences):
    """Return the router, the parameters fitted end to end, and the best stage, given the divergences of the stages."""
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names("ab"), 1, 1, RouterSettings(top_k=2))
    stages, moved = iter(divergences), []

    def fit_router(router, parameters, *rest):
        with torch.no_grad():
            for parameter in parameters:
                parameter += 1.0

    def fit_end_to_end(losses, parameters, *rest):
        moved.extend(parameters)
        fit_router(losses.router, parameters)

    monkeypatch.setattr(gates, "real_divergence", lambda *args: torch.full((3,), next(stages)))
    monkeypatch.setattr(gates, "fit_router", fit_router)
    monkeypatch.setattr(gates, "fit_end_to_end", fit_end_to_end)
    recipe = replace(RECIPE, objective="kl")
    fitting = Fitting(None, (), recipe, quiet, ())
    held_out = fitting._fit_first(router, torch.zeros(1, 1, 2), Examples([], []), HeadBudgets(recipe))
    return router, moved, held_out.best


@pytest.mark.parametrize(
    ("divergences", "kept", "looks"),
    [
        ((1.0, 0.5, 0.495, 0.6), "static", False),  # features reduce it by 1 %
        ((1.0, 0.5, 0.47, 0.6), "features", True),
        ((1.0, 0.5, 0.495, 0.499), "end to end", False),
        ((1.0, 0.5, 0.47, 0.469), "end to end", True),
        ((1.0, 1.1, 1.2, 1.3), "prior", True),
    ],
)
def test_a_router_looks_at_the_input_only_if_that_wins(divergences, kept, looks, monkeypatch):
    router, moved, named = fitted(monkeypatch, divergences)
    assert named == kept and router.looks() is looks
    assert any(parameter is router.evidence for parameter in moved) is looks
    assert any(parameter is router.static for parameter in moved)
