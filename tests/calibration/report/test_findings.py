"""What a router does on held-out contexts."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.fit.budgets import HeadBudgets, error_curves
from pikvpress.calibration.fit.routers import predicted
from pikvpress.calibration.report.findings import find
from pikvpress.experts import make_experts
from tests.calibration.tiny import NAMES, RECIPE, make_router, make_situations, measured, quiet
from tests.conftest import make_tiny


def test_findings_are_those_of_the_router(tmp_path):
    records = measured(make_tiny("llama", seed=5), make_situations(2, 110, 10, 10), tmp_path, make_experts(NAMES, None))
    router = make_router()
    before = router.evidence.detach().clone()
    budgets = HeadBudgets(RECIPE, error_curves(router, records, RECIPE, quiet))
    findings = find(router, NAMES, records, budgets, quiet)
    expected = predicted(router, records, HeadBudgets(RECIPE))
    torch.testing.assert_close(findings.routed.sum(dim=(1, 2)), expected)
    assert (findings.oracle <= findings.alone.amin(dim=-1) * 1.001).all()
    assert sum(findings.expert_shares().values()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(findings.budgets.mean(dim=(1, 2)), 1 - torch.tensor(RECIPE.ratios), atol=1e-3, rtol=0)
    assert set(findings.without) == {"error", "missed"} and torch.equal(router.evidence, before)
    for ratio, (name, times) in enumerate(findings.best_alone()):
        alone = findings.alone[ratio].sum(dim=(0, 1))
        assert name == NAMES[int(alone.argmin())] and times == pytest.approx(
            float(alone.min() / expected[ratio]), rel=1e-4
        )
