"""Models that read images are calibrated on texts, and their gates serve contexts with images."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import MoERouterPress, models
from pikvpress.calibration import calibrate
from tests.calibration.tiny import SETTINGS, TEXTS, Tokenizer
from tests.vision import context, make_vision


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "smolvlm"])
def test_fitted_gates_are_found_and_used(architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    model = make_vision(architecture, seed=11)
    found = calibrate(model, Tokenizer(), TEXTS, **SETTINGS)
    assert not any(layer._forward_hooks or hasattr(layer, "rotary_emb") for layer in models.attention_layers(model))
    press = MoERouterPress(0.5, budgets="fitted")
    with torch.no_grad(), press(model):
        model(**context(architecture), past_key_values=DynamicCache())
    assert press.plan.fitted and press.plan.experts == found.gates.experts
    assert press.get_stats()["reached_ratio"] == pytest.approx(0.5, abs=0.01)
