"""Predictions after a decoded cache are those after the cache itself."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, PiKVCache, PiKVPress, models
from pikvpress.adaptation.reading import read
from pikvpress.gates import save_gates
from tests.adaptation.helpers import SITUATION
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

TEXT = SITUATION.futures[1]


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama")


@pytest.fixture(scope="module")
def gates(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gates") / "gates.safetensors"
    save_gates(path, uneven_gates(model))
    return path


@pytest.mark.parametrize("press_type", [PiKVPress, MoERouterPress])
def test_predictions_are_those_of_the_cache(press_type, model, gates):
    press = press_type(0.75, gates=gates)
    found = read(model, SITUATION.context, press).predictions(model, TEXT)
    cache, length = PiKVCache(), len(SITUATION.context)
    with torch.no_grad():
        with press(model):
            model(torch.tensor([SITUATION.context]), past_key_values=cache)
        positions = torch.arange(length, length + len(TEXT))[None]
        logits = model(torch.tensor([TEXT]), past_key_values=cache, position_ids=positions).logits[0]
    torch.testing.assert_close(found.detach(), logits.log_softmax(dim=-1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, read(model, SITUATION.context).predictions(model, TEXT), atol=1e-4)


def test_without_a_press_everything_is_read(model):
    found = read(model, SITUATION.context).predictions(model, TEXT)
    with torch.no_grad():
        whole = model(torch.tensor([[*SITUATION.context, *TEXT]])).logits[0, -len(TEXT) :]
    torch.testing.assert_close(found.detach(), whole.log_softmax(dim=-1), atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_the_text_only(model, gates):
    context = read(model, SITUATION.context, PiKVPress(0.75, gates=gates))
    assert all(not layer.keys.requires_grad for layer in context.cache.layers)
    weight = models.attention_layers(model)[0].q_proj.weight
    (gradient,) = torch.autograd.grad(context.predictions(model, TEXT).sum(), weight)
    assert gradient.abs().sum() > 0
