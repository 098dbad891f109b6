import json

import pytest
import torch
from transformers import DynamicCache

from pikvpress import LayerPlan, PiKVCache, PiKVPress, Plan
from pikvpress.moe import choices_seen
from pikvpress.presses.moe_router_press import MoERouterPress
from tests.conftest import make_tiny
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


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss"])
def test_a_mixture_of_experts_tells_the_load_of_its_own_experts(name, ids, tmp_path):
    model, press = make_tiny(name), MoERouterPress(0.5, gates=None)
    if name == "gpt_oss":
        model.set_attn_implementation("eager")
    seen = {}
    with torch.no_grad(), press(model), choices_seen(model, seen.__setitem__):
        cache = DynamicCache()
        model(ids[:, :250], past_key_values=cache)
        first = dict(seen)
        model(ids[:, 250:], past_key_values=cache)  # the rest of the context
        rest = dict(seen)
        model(ids[:, :1], past_key_values=cache)  # an answer, which is not counted
    plan = press.plan
    assert [load.layer for load in plan.moe] == [0, 1]
    for load in plan.moe:
        choices = first[load.layer], rest[load.layer]
        chosen = torch.cat([choice.chosen for choice in choices]).flatten()
        assert load.tokens == 300 and load.per_token == 2 and len(load.load) == 4
        assert load.load == pytest.approx((torch.bincount(chosen, minlength=4) / 300).tolist())
        assert load.entropy == pytest.approx(float(torch.cat([choice.entropy for choice in choices]).mean()), rel=1e-5)
    busiest = max(load.imbalance for load in plan.moe)
    assert f"the model's own experts: 2 of 4 read a token, entropy {plan.moe[0].entropy:.2f}"[:50] in str(plan)
    assert f"of 1.39, at most {busiest:.1f} times the mean load (layer" in str(plan)
    assert press.get_stats()["moe"][1] == {"load": plan.moe[1].load, "entropy": plan.moe[1].entropy}
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_padding_is_not_part_of_the_load(ids):
    model, loads = make_tiny("mixtral"), []
    mask = torch.ones_like(ids)
    mask[0, :100] = 0
    for context, given in ((ids, mask), (ids[:, 100:], None)):
        press = MoERouterPress(0.5, gates=None)
        with torch.no_grad(), press(model):
            model(context, attention_mask=given, past_key_values=PiKVCache())
        loads.append(press.plan.moe)
    padded, alone = loads
    assert [load.tokens for load in padded] == [200, 200]
    assert padded[1].load == alone[1].load and padded[1].entropy == pytest.approx(alone[1].entropy, rel=1e-4)


def test_a_dense_model_has_no_load(plan):
    assert plan.moe == [] and "own experts" not in str(plan)
    without = {name: value for name, value in plan.to_dict().items() if name != "moe"}
    assert Plan.from_dict(without) == plan  # as written before mixtures were recorded
