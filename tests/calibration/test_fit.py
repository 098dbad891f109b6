"""What held-out contexts keep of the stages of a fit."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration import fit
from pikvpress.calibration.fit import Fit
from pikvpress.calibration.objectives import OBJECTIVES
from pikvpress.calibration.steps import Steps
from pikvpress.calibration.training import EQUAL
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names


def fitted(monkeypatch, divergences):
    """Return the router and the parameters that moved end to end, if stages have these divergences."""
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names("ab"), 1, 1, RouterSettings(top_k=2))
    stages, moved = iter(divergences), []

    def train(router, parameters, *rest):
        with torch.no_grad():
            for parameter in parameters:
                parameter += 1.0

    def distill(model, router, parameters, *rest):
        moved.extend(parameters)
        train(router, parameters)

    monkeypatch.setattr(fit, "real_divergence", lambda *args: torch.full((3,), next(stages)))
    monkeypatch.setattr(fit, "train", train)
    monkeypatch.setattr(fit, "distill", distill)
    fitting = Fit(None, (), 0, Steps(None))
    fitting._fit_first(router, "pikv", torch.zeros(1, 1, 2), [], [], EQUAL, OBJECTIVES["kl"])
    return router, moved, fitting.figures["pikv"]["kept"]


@pytest.mark.parametrize(
    ("divergences", "kept", "looks"),
    [
        ((1.0, 0.5, 0.495, 0.6), "static", False),  # features win 1 %
        ((1.0, 0.5, 0.48, 0.6), "features", True),
        ((1.0, 0.5, 0.495, 0.499), "end to end", False),
        ((1.0, 0.5, 0.48, 0.479), "end to end", True),
        ((1.0, 1.1, 1.2, 1.3), "prior", True),
    ],
)
def test_a_router_looks_at_the_input_only_if_that_wins(divergences, kept, looks, monkeypatch):
    router, moved, named = fitted(monkeypatch, divergences)
    assert named == kept and router.looks() is looks
    assert any(parameter is router.evidence for parameter in moved) is looks
    assert any(parameter is router.static for parameter in moved)
