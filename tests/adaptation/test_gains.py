"""Gains on held-out contexts."""

from __future__ import annotations

import math

import pytest
import torch

from pikvpress import PiKVPress
from pikvpress.adaptation.adapter import adapter_on
from pikvpress.adaptation.gains import Gains, measure
from tests.adaptation.helpers import RECIPE, fill
from tests.calibration.tiny import make_situations
from tests.conftest import make_tiny

PRESSES = [PiKVPress(0.5, gates=None), PiKVPress(0.75, gates=None)]


@pytest.fixture(scope="module")
def situations():
    return make_situations(2, 200, 9, 12)


def measured(situations, scale):
    model, steps = make_tiny("llama"), []
    with adapter_on(model, RECIPE) as adapted:
        if scale:
            fill(adapted, scale)
        found = measure(adapted, situations, PRESSES, lambda: steps.append(1))
    assert len(steps) == len(situations)
    return found


def test_an_adapter_that_does_nothing_changes_nothing(situations):
    found = measured(situations, 0)
    assert found.before.shape == (2, 2) and (found.before > 0).all()
    assert torch.equal(found.before, found.after) and found.shares == [1.0, 1.0]
    assert found.perplexity_ratio == 1


def test_an_adapter_is_compared_with_the_base_model(situations):
    nothing, found = measured(situations, 0), measured(situations, 1.0)
    torch.testing.assert_close(found.before, nothing.before)
    assert (found.after > 2 * found.before).all() and min(found.shares) > 2, "a random adapter only does harm"
    torch.testing.assert_close(found.surprise_before, nothing.surprise_before)


def test_surprise_is_that_of_the_texts_own_tokens(situations):
    model, (situation, _) = make_tiny("llama"), situations
    expected = []
    for future in situation.futures:
        with torch.no_grad():
            logits = model(torch.tensor([[*situation.context, *future]])).logits[0, -len(future) :]
        told = logits.log_softmax(dim=-1)
        expected.append(-sum(float(told[i, token]) for i, token in enumerate(future[1:])) / (len(future) - 1))
    assert float(measured(situations, 0).surprise_before[0]) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_shares_and_ratio_by_hand():
    found = Gains(
        torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([1.0, 2.0]), torch.tensor([1.1, 2.1])
    )
    assert found.shares == [0.5]
    assert found.perplexity_ratio == pytest.approx(math.exp(0.1), rel=1e-5)
