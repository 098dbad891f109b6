"""Measurements that an interrupted calibration finds again."""

from __future__ import annotations

import torch

from pikvpress.calibration.measure import measurements
from pikvpress.calibration.measure.measurements import Measurements
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Steps
from pikvpress.experts import equipped, make_experts
from pikvpress.saliency_features import num_features
from tests.calibration.tiny import NAMES, make_situations, quiet


def test_what_is_there_is_not_measured_again(tmp_path, llama, monkeypatch):
    recipe, told, calls = Recipe(contexts=2), [], []
    collect, look = measurements.collect, measurements.look
    monkeypatch.setattr(measurements, "collect", lambda *given: calls.append("collect") or collect(*given))
    monkeypatch.setattr(measurements, "look", lambda *given: calls.append("look") or look(*given))
    situations, held = make_situations(4, 60, 7), make_situations(3, 60, 7)
    steps = Steps(lambda *step: told.append(step))
    paths = Measurements(tmp_path, llama, recipe).collect(situations, held, 1, steps)
    assert {use: [path.stem for path in found] for use, found in paths.items()} == {
        "fit": ["fit-000", "fit-001"],
        "apart": ["fit-002", "fit-003"],
        "held": ["held-000", "held-001", "held-002"],
    }
    assert [done for _, done, _ in told] == [*range(7)] and {total for _, _, total in told} == {7}
    experts = make_experts(NAMES, None)
    for _ in range(2):
        again = Measurements(tmp_path, llama, recipe)
        assert again.collect(situations, held, 1, Steps(None)) == paths
        records = again.examine(paths["held"], held, experts, quiet)
    assert calls == ["collect"] * 7 + ["look"] * 3
    assert records[0].layer(0).seen.ranks.shape == (3, 2, 4, 60)


def test_other_weights_see_other_things(tmp_path, llama, monkeypatch):
    names, calls, look = ["saliency", "keydiff"], [], measurements.look
    monkeypatch.setattr(measurements, "look", lambda *given: calls.append("look") or look(*given))
    held, generator = make_situations(3, 60, 7), torch.Generator().manual_seed(0)
    made = Measurements(tmp_path, llama, Recipe(contexts=2))
    paths = made.collect(make_situations(2, 60, 7), held, 0, Steps(None))["held"]
    weights = torch.randn(2, 2, num_features(16), generator=generator)
    hidden = torch.randn(2, 2, num_features(16) + 64, generator=generator)
    for expected, given in [(3, (weights, None)), (6, (weights, hidden)), (9, (weights, 2 * hidden)), (9, (weights,))]:
        made.examine(paths, held, equipped(make_experts(names, None), *given), quiet)
        assert len(calls) == expected
