"""A press for each layer, by name."""

from __future__ import annotations

import kvpress as kv
import pytest

from evaluation.presses import parse_press
from pikvpress import PerLayerPress


def test_layers_have_presses_of_their_own():
    layers = parse_press("per_layer@presses={0-1: knorm, 3: snapkv@window_size=8}").make(0.75)
    assert isinstance(layers, PerLayerPress)
    assert layers.presses == {0: kv.KnormPress(0.75), 1: kv.KnormPress(0.75), 3: kv.SnapKVPress(0.75, window_size=8)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("per_layer", "write per_layer@presses="),
        ("per_layer@presses={first: knorm}", "'first' is not a layer"),
        ("per_layer@presses=knorm", "layers to names"),
        ("per_layer@presses={0: knrm}", "did you mean knorm"),
        ("per_layer@presses={0: no_press}", "layer 0 has 'no_press'"),
        ("per_layer@presses={0: knorm}@window_size=3", "unknown setting of per_layer"),
    ],
)
def test_bad_layers(name, message):
    with pytest.raises(ValueError, match=message):
        parse_press(name)
