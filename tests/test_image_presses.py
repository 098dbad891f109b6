"""Presses around models that read images: nothing stays behind, and those that move keys are refused."""

from __future__ import annotations

import pytest
from kvpress import ComposedPress, FinchPress, KeyRerotationPress, KnormPress

from pikvpress import MoERouterPress, PerLayerPress, models
from tests.vision import VISION, make_vision

ALONG_AXES = ("qwen2_5_vl", "qwen3_vl")


def test_nothing_stays_behind():
    for name in VISION:
        model = make_vision(name)
        state, before = [*model.state_dict()], [*vars(model.model)]
        for press in (MoERouterPress(0.5, gates=None), PerLayerPress({1: KnormPress(0.5)})):
            with press(model):
                assert any(module._forward_hooks for module in model.modules())
            assert [*vars(model.model)] == before
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        for layer in models.attention_layers(model):
            assert not isinstance(getattr(layer, "rotary_emb", None), models.PlacesRotary)
        assert [*model.state_dict()] == state


def finch():
    press = FinchPress(0.5)
    press.delimiter_token_id = 3
    return press


@pytest.mark.parametrize(
    "press",
    [
        KeyRerotationPress(KnormPress(0.5)),
        finch(),
        ComposedPress([KnormPress(0.5), KeyRerotationPress(KnormPress(0.5))]),
        PerLayerPress({0: KeyRerotationPress(KnormPress(0.5))}),
    ],
)
@pytest.mark.parametrize("name", ALONG_AXES)
def test_presses_that_move_keys_are_refused(name, press):
    model = make_vision(name)
    with pytest.raises(ValueError, match="rotates keys as if all were of text") as caught, press(model):
        pytest.fail("the model was touched")
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
