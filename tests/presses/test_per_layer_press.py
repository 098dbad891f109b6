import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, DMSPress, KnormPress, KVzipPress, ThinKPress

from pikvpress import MoERouterPress, PerLayerPress
from tests.conftest import make_tiny
from tests.helpers import prefill


def test_each_layer_gets_its_own_press(llama, ids):
    knorm, routed = prefill(llama, ids, KnormPress(0.5)), prefill(llama, ids, MoERouterPress(0.5))
    cache = prefill(llama, ids, PerLayerPress({0: KnormPress(0.5)}, default=MoERouterPress(0.5)))
    assert torch.equal(cache.layers[0].keys, knorm.layers[0].keys)
    assert torch.equal(cache.layers[1].keys, routed.layers[1].keys)


def test_layers_without_a_press_are_left_alone(llama, ids):
    cache = prefill(llama, ids, PerLayerPress({1: KnormPress(0.5)}))
    assert [layer.keys.shape[2] for layer in cache.layers] == [300, 150]


def test_a_press_without_a_ratio_before_it_has_run(llama, ids):
    cache = prefill(llama, ids, PerLayerPress({0: DMSPress(KnormPress(), threshold=-1.0)}, default=KnormPress(0.5)))
    assert [layer.keys.shape[2] for layer in cache.layers] == [300, 150]


def test_the_ratio_is_the_mean_and_cannot_be_set(llama, ids):
    press = PerLayerPress({0: KnormPress(0.4)}, default=AdaKVPress(KnormPress(0.2)))
    prefill(llama, ids, press)
    assert press.compression_ratio == pytest.approx(0.3)
    assert PerLayerPress({}, default=KnormPress(0.2)).compression_ratio == 0.2
    with pytest.raises(AttributeError, match="on its presses"):
        press.compression_ratio = 0.5


def test_sliding_layers_are_left_alone(ids):
    cache = prefill(make_tiny("gemma3"), ids, PerLayerPress({}, default=KnormPress(0.5)))
    assert [layer.keys.shape[2] for layer in cache.layers] == [300, 150]


def test_it_can_be_composed(llama, ids):
    uneven = PerLayerPress({0: KnormPress(0.5), 1: MoERouterPress(0.5)})
    cache = prefill(llama, ids, ComposedPress([uneven, ThinKPress(0.25)]))
    assert [layer.keys.shape[2] for layer in cache.layers] == [150, 150]


@pytest.mark.parametrize(
    ("presses", "default", "error", "message"),
    [
        ([KnormPress()], None, TypeError, "must map layer indices to presses, got list"),
        ({}, None, ValueError, "at least one press"),
        ({"0": KnormPress()}, None, TypeError, "given by index, got '0'"),
        ({-1: KnormPress()}, None, ValueError, "counted from 0"),
        ({0: "knorm"}, None, TypeError, "layer 0 needs a kvpress press, got str"),
        ({0: KVzipPress(0.5)}, None, ValueError, "KVzipPress runs the entire model"),
        ({}, KVzipPress(0.5), ValueError, "default: KVzipPress"),
        ({0: PerLayerPress({0: KnormPress(0.5)})}, None, ValueError, "layer 0: PerLayerPress"),
    ],
)
def test_bad_presses(presses, default, error, message):
    with pytest.raises(error, match=message):
        PerLayerPress(presses, default)


def test_layers_that_the_model_lacks(llama):
    press = PerLayerPress({2: KnormPress(0.5)})
    with pytest.raises(ValueError, match="has 2 layers, 0 to 1, but presses has layer 2"), press(llama):
        pytest.fail("the model was touched")
