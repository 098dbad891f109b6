"""Settings of presses are plain data."""

from __future__ import annotations

import json

import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, KnormPress, ThinKPress

from pikvpress import MoERouterPress, PerLayerPress, SaliencyPress
from pikvpress.cache.saving.settings import settings_of

KNORM = {"press": "KnormPress", "settings": {"compression_ratio": 0.5}}


def test_presses_inside_presses_are_described():
    assert settings_of(AdaKVPress(KnormPress(0.5))) == {
        "press": "AdaKVPress",
        "settings": {"press": KNORM, "alpha_safeguard": 0.2},
    }
    composed = settings_of(ComposedPress([KnormPress(0.5), ThinKPress(0.25)]))
    assert composed["settings"]["presses"][0] == KNORM
    assert settings_of(PerLayerPress({1: KnormPress(0.5)}))["settings"]["presses"] == {"1": KNORM}


def test_settings_are_plain():
    press = MoERouterPress(0.25, experts=["knorm", KnormPress(0.5)], gates=None)
    found = settings_of(press)
    assert found["settings"]["experts"] == ["knorm", KNORM] and found["settings"]["compression_ratio"] == 0.25
    assert json.loads(json.dumps(found)) == found


def test_tensors_are_named_only():
    found = settings_of(SaliencyPress(0.5, torch.ones(2, 2, 5)))
    assert "Tensor" in found["settings"].values()


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="must be a press of kvpress or pikvpress, got str"):
        settings_of("knorm")
