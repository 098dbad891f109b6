"""Settings reach the press that has them."""

from __future__ import annotations

import kvpress as kv
import pytest

from evaluation.presses import parse_press
from evaluation.presses.settings import set_ratio, with_settings
from pikvpress import MoERouterPress, PerLayerPress


def test_settings_reach_the_press_or_the_one_inside():
    assert parse_press("snapkv@window_size=16").make(0.5) == kv.SnapKVPress(0.5, window_size=16)
    press = parse_press("adakv_snapkv@window_size=16@alpha_safeguard=0.3").make(0.5)
    assert press == kv.AdaKVPress(kv.SnapKVPress(0.5, window_size=16), alpha_safeguard=0.3)
    press = parse_press("moe_router@router_type=adaptive@experts=[snapkv, keydiff]@top_k=1").make(0.5)
    assert isinstance(press, MoERouterPress)
    assert (press.router_type, press.experts, press.top_k) == ("adaptive", ["snapkv", "keydiff"], 1)
    assert parse_press("decoding_knorm@target_size=64").make(None).target_size == 64


def test_the_press_that_was_given_stays_as_it_was():
    press = kv.AdaKVPress(kv.SnapKVPress())
    other = with_settings(press, {"window_size": 8}, "adakv_snapkv")
    assert other.press.window_size == 8 and press == kv.AdaKVPress(kv.SnapKVPress())
    with pytest.raises(ValueError, match="unknown setting of adakv_snapkv 'windw_size': did you mean window_size"):
        with_settings(press, {"windw_size": 8}, "adakv_snapkv")


def test_a_ratio_reaches_the_presses_that_a_press_is_made_of():
    layers = PerLayerPress({0: kv.KnormPress(), 2: kv.KnormPress()})
    set_ratio(layers, "compression_ratio", 0.5)
    assert [press.compression_ratio for press in layers.presses.values()] == [0.5, 0.5]
    composed = kv.ComposedPress([kv.SnapKVPress(), kv.ThinKPress(0.25)])
    set_ratio(composed, "compression_ratio", 0.5)
    assert composed.presses == [kv.SnapKVPress(0.5), kv.ThinKPress(0.25)]
