"""Routers with the same experts share one examination of a context."""

from __future__ import annotations

from evaluation.compressors import PrefilledContext, examinations
from evaluation.presses import parse_press
from pikvpress.routing import examine


def test_routers_with_the_same_experts_look_once(tiny, random_context, monkeypatch):
    looked = []

    def counted(experts, layer, ratio, measures):
        looked.append((layer.index, ratio))
        return examine(experts, layer, ratio, measures)

    monkeypatch.setattr(examinations, "examine", counted)
    prefilled = PrefilledContext(tiny, random_context)
    names = ["moe_router", "moe_router@router_type=eplb", "adakv_moe_router", "moe_router@experts=[keydiff, knorm]"]
    seconds = [prefilled.compress(parse_press(name).make(0.5)).seconds for name in names]
    assert looked == [(0, 0.5), (1, 0.5)] * 2
    assert min(seconds[:3]) > 0.3 * seconds[0]  # time saved by sharing is counted as if it had been spent
    prefilled.compress(parse_press("moe_router").make(0.75))
    assert looked[4:] == [(0, 0.75), (1, 0.75)]
