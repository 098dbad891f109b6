"""Which experts are chosen."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration import selection
from pikvpress.calibration.selection import choose_experts
from pikvpress.calibration.training import EQUAL

GOOD = {(0,): 4.0, (1,): 3.0, (2,): 5.0, (0, 1): 3.1, (1, 2): 3.05, (0, 1, 2): 1.0}


def chosen(monkeypatch, divergences, most):
    def found(model, make, sets, examples, budgets, progress):
        return torch.tensor([divergences[tuple(experts)] for experts in sets])

    monkeypatch.setattr(selection, "_divergences", found)
    return choose_experts(None, None, 3, most, [], EQUAL, lambda what: None)


@pytest.mark.parametrize(("most", "expected"), [(1, [1]), (2, [1, 2]), (3, [0, 1, 2]), (4, [0, 1, 2])])
def test_each_round_adds_what_diverges_least(most, expected, monkeypatch):
    assert chosen(monkeypatch, GOOD, most) == expected
