"""Selections through which gradients flow."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.measure.selection import kept_keys
from tests.calibration.tiny import RECIPE


def test_selections_pass_gradients_to_keys_near_the_threshold():
    blended = torch.linspace(0, 1, 101).repeat(2, 1).requires_grad_()
    kept = kept_keys(blended, torch.tensor([50, 0]), RECIPE.softness)
    assert kept.detach().sum(dim=-1).tolist() == pytest.approx([50, 0], abs=1e-4)
    kept.sum().backward()
    assert blended.grad[0, 51] > 100 * blended.grad[0, 0] > 0
