"""Which experts are chosen."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration import selection
from pikvpress.calibration.selection import choose_experts
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names

SHARES = (0.15, 0.6, 0.01, 0.24)


class Layers:
    layers = (0, 2)  # layer 1 slides


def chosen(monkeypatch, shares, most):
    def fitted(router, parameters, records, budgets, epochs, seed, progress):
        with torch.no_grad():
            parameters[0][[0, 2]] = torch.tensor(shares).log()

    monkeypatch.setattr(selection, "train", fitted)
    router = ROUTERS["static"]([1.0] * 4, feature_names("abcd"), 3, 2, RouterSettings())
    return choose_experts(router, [Layers()], most, 1, 0, lambda what: None)


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 3])])
def test_those_that_the_blend_leans_on_are_chosen(most, expected, monkeypatch):
    assert chosen(monkeypatch, SHARES, most) == expected


def test_two_are_left_even_if_no_share_is_large(monkeypatch):
    monkeypatch.setattr(selection, "WORTH", 0.9)
    assert chosen(monkeypatch, SHARES, 3) == [1, 3]
    assert chosen(monkeypatch, SHARES, 1) == [1]
