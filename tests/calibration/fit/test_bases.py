"""Calibrated directions, and the correction for what they omit."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration import calibrate_bases
from pikvpress.calibration.fit.bases import _learn, _Moments, _unexplained
from tests.calibration.tiny import RECIPE, TEXTS, Tokenizer
from tests.conftest import make_tiny

SETTINGS = {"contexts": 3, "length": 256}


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama")


@pytest.fixture(scope="module")
def bases(model):
    return calibrate_bases(model, Tokenizer(), TEXTS, rank=12, **SETTINGS)


def test_the_directions_are_the_principal_ones():
    torch.manual_seed(0)
    states = torch.randn(2, 3, 500, 16) @ torch.diag(torch.arange(16.0, 0, -1)) + 5
    moments = _Moments()
    moments.add(states[:, :, :200])
    moments.add(states[:, :, 200:])
    factors = moments.factors(4)
    centred = states - states.mean(dim=2, keepdim=True)
    singular = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(factors["mean"], states.mean(dim=2), atol=1e-4, rtol=1e-4)
    alike = (factors["directions"] @ singular.Vh[..., :4, :].transpose(-1, -2)).abs()
    torch.testing.assert_close(alike, torch.eye(4).expand_as(alike), atol=1e-3, rtol=0)
    left = singular.S[..., 4:].square().sum(dim=-1) / singular.S.square().sum(dim=-1)
    torch.testing.assert_close(_unexplained(states, factors), left, atol=1e-4, rtol=1e-3)


def test_the_correction_foresees_what_depends_on_the_coordinates():
    torch.manual_seed(0)
    leading = 5 * torch.randn(1, 1, 4000, 4)
    states = torch.cat([leading, leading.abs() - 4], dim=-1) + 0.01 * torch.randn(1, 1, 4000, 8)
    moments = _Moments()
    moments.add(states[:, :, :3000])
    factors = moments.factors(4)
    before = _unexplained(states[:, :, 3000:], factors)
    learned = _learn(states[:, :, :3000], factors, RECIPE, torch.Generator().manual_seed(0))
    assert before > 0.1 and _unexplained(states[:, :, 3000:], learned) < 0.3 * before


def test_calibration_says_what_is_left_on_held_out_text(model, bases):
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    fewer = calibrate_bases(model, Tokenizer(), TEXTS, rank=4, learned=False, **SETTINGS)
    for side in ("keys", "values"):
        found = bases.about["unexplained"][side]
        assert 0 < found["with correction"] <= found["directions"] < fewer.about["unexplained"][side]["directions"] < 1
        assert "outward" not in getattr(fewer, side)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert bases.codecs(0, True)[0].name == "calibrated12+learned" and fewer.codecs(1, False)[1].name == "calibrated4"
