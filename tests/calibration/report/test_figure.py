"""The figure of the report."""

from __future__ import annotations

from pathlib import Path

import torch

from pikvpress.calibration.report import Calibration, draw
from pikvpress.calibration.report.findings import Findings
from pikvpress.gates import Gates


def test_the_maps_are_of_the_middle_ratio():
    shape, ratios = (3, 2, 2), (0.25, 0.6, 0.9)
    maps = [torch.full(shape, 1.0 + i) for i in range(3)]
    weights = torch.tensor([0.75, 0.25]).expand(*shape, 2)
    findings = Findings(["a", "b"], weights, weights, *maps, {"error": 1.5})
    gates = Gates(model={"model_type": "llama"}, experts=["a", "b"], routers={}, ratios=ratios)
    figure = draw(Calibration(gates, Path("gates.safetensors"), findings))
    titles = [axes.get_title() for axes in figure.axes]
    assert "share kept, fitted budgets,\n60 % removed" in titles
    assert "regret against the oracle,\nequal budgets, 60 % (1 = none)" in titles
    assert figure.get_suptitle() == "Gates for llama: gates.safetensors"
