"""What an adapter is trained on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from pikvpress import PiKVPress
from pikvpress.adaptation.adapter import adapter_on
from pikvpress.adaptation.losses import AdaptationLosses
from pikvpress.adaptation.reading import read
from pikvpress.calibration.fit.objectives import OBJECTIVES
from tests.adaptation.helpers import RECIPE, SITUATION, fill
from tests.conftest import make_tiny


@pytest.fixture
def adapted():
    model = make_tiny("llama")
    with adapter_on(model, RECIPE) as found:
        yield found


def losses(adapted, **changes):
    made = AdaptationLosses(
        adapted, [PiKVPress(0.75, gates=None)], replace(RECIPE, **changes), torch.Generator().manual_seed(0)
    )
    return list(made(SITUATION, True, random.Random(0)))


def test_the_loss_is_the_divergence_from_the_base_model_with_everything(adapted):
    fill(adapted)
    inner, press = adapted.get_base_model(), PiKVPress(0.75, gates=None)
    found = losses(adapted)
    with adapted.disable_adapter():
        full = read(inner, SITUATION.context)
        teachers = [full.predictions(inner, future) for future in SITUATION.futures]
    compressed = read(inner, SITUATION.context, press)
    for future, teacher, loss in zip(SITUATION.futures, teachers, found, strict=True):
        student = compressed.predictions(inner, future)
        by_hand = (teacher.exp() * (teacher - student)).sum(dim=-1).mean() / 2
        torch.testing.assert_close(loss, by_hand)
        assert loss.item() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_gradients_for_the_adapter_alone(objective, adapted):
    fill(adapted)
    found = losses(adapted, objective=objective)
    assert len(found) == len(SITUATION.futures) * len(OBJECTIVES[objective].terms)
    sum(found).backward()
    for name, parameter in adapted.named_parameters():
        assert ("lora_" in name) == parameter.requires_grad == (parameter.grad is not None)
        assert parameter.grad is None or parameter.grad.abs().sum() > 0
