import json

import pytest
import torch

from pikvpress import LayerPlan, PiKVCache, PiKVPress, Plan
from pikvpress.presses.moe_router_press import MoERouterPress
from tests.helpers import prefill


@pytest.fixture
def plan(llama, ids):
    press = MoERouterPress(0.75)
    prefill(llama, ids.repeat(2, 1), press)
    return press.plan


def test_it_tells_what_was_asked_and_reached(plan):
    assert [layer.layer for layer in plan.layers] == [0, 1]
    assert {layer.tokens_asked for layer in plan.layers} == {layer.tokens_kept for layer in plan.layers} == {75}
    assert plan.bytes_after * 4 == plan.bytes_before
    assert 0 < plan.press_share < 1
    assert [len(layer.weights) for layer in plan.layers] == [2, 2]
    assert sum(plan.layers[0].head_weights()[0]) == pytest.approx(1)


def test_it_prints(plan):
    text = str(plan)
    assert "pikv router (prior), ratio 0.75, 2 layers" in text
    assert "layer  1: kept 75 of 300 (asked 75) | compactor 0." in text
    assert "share of the prefill's time" in text


def test_it_survives_json(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["router"] == "pikv"


def test_pairs_of_codecs_survive_json_too(llama, ids, tmp_path):
    press = PiKVPress(0.8, gates=None)
    with torch.no_grad(), press(llama):
        llama.model(ids, past_key_values=PiKVCache())
    press.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == press.plan and press.plan.layers[0].codecs is not None


def test_it_is_drawn_as_one_map_an_expert(plan, tmp_path):
    figure = plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title().split("\n")[0] for panel in panels] == plan.experts
    assert panels[0].images[0].get_array().shape == (2, 2)


def test_head_weights_average_over_the_batch():
    layer = LayerPlan(0, 4, [[[1.0, 0.0]], [[0.0, 1.0]]], 2, None, 8, 8)
    assert layer.head_weights() == [[0.5, 0.5]]


def test_an_empty_plan_prints_and_is_not_drawn():
    empty = MoERouterPress(0.5).plan
    assert "0 layers" in str(empty)
    assert empty.press_share is None
    with pytest.raises(ValueError, match="the plan is empty"):
        empty.plot()


def test_inside_a_wrapper_what_was_kept_is_the_wrappers_to_say(llama, ids):
    from kvpress import AdaKVPress

    press = MoERouterPress(0.5)
    prefill(llama, ids, AdaKVPress(press))
    assert press.plan.layers[0].tokens_kept is None
    assert press.plan.prefill_seconds is None
    assert "the wrapper selects of 300 (asked 150)" in str(press.plan)
    assert press.get_stats()["reached_ratio"] is None
