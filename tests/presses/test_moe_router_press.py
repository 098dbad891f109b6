import copy
import dataclasses
import logging

import pytest
import torch
from kvpress import KnormPress
from kvpress.utils import compute_n_kept
from transformers import DynamicCache

from pikvpress import MoERouterPress
from pikvpress.routers import ROUTERS
from tests.helpers import kept_positions, prefill, recorded_scores, top


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1 / 3, 0.5, 0.875, 0.999])
def test_the_ratio_is_exact_for_every_router(llama, ids, router, ratio):
    press = MoERouterPress(ratio, router_type=router)
    cache = prefill(llama, ids, press)
    assert [layer.keys.shape[2] for layer in cache.layers] == [compute_n_kept(300, ratio)] * 2
    if ratio:
        assert press.get_stats()["tokens_kept"] == press.get_stats()["tokens_asked"] == 2 * compute_n_kept(300, ratio)


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_input_keeps_the_same_tokens_on_every_run(llama, ids, router):
    first = prefill(llama, ids, MoERouterPress(0.6, router_type=router))
    torch.manual_seed(99)  # must not affect experts that draw random numbers
    again = prefill(llama, ids, MoERouterPress(0.6, router_type=router))
    for one, other in zip(first.layers, again.layers, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


def test_the_highest_scores_are_kept_whole(llama, ids):
    full = prefill(llama, ids)
    with recorded_scores() as scores:
        cache = prefill(llama, ids, MoERouterPress(0.7))
    for index, layer in enumerate(cache.layers):
        positions = kept_positions(layer.values, full.layers[index].values)
        assert torch.equal(positions, top(scores[index][0], 90))
        rows = positions.unsqueeze(-1).expand(-1, -1, -1, layer.keys.shape[-1])
        assert torch.equal(layer.keys, full.layers[index].keys.gather(2, rows))


def test_a_single_expert_keeps_what_its_press_keeps(llama, ids):
    full = prefill(llama, ids)
    alone = prefill(llama, ids, KnormPress(0.5))
    routed = prefill(llama, ids, MoERouterPress(0.5, experts=["knorm"]))
    for index in range(2):
        expected = kept_positions(alone.layers[index].values, full.layers[index].values).sort(dim=-1).values
        assert torch.equal(kept_positions(routed.layers[index].values, full.layers[index].values), expected)


def test_sequences_of_a_batch_are_compressed_as_if_alone(llama):
    ids = torch.randint(1, 128, (3, 280), generator=torch.Generator().manual_seed(5))
    experts = ["keydiff", "expected_attention", "snapkv", "knorm"]  # Compactor's own z-scores run over the batch
    together = prefill(llama, ids, MoERouterPress(0.5, experts=experts))
    for row in range(3):
        alone = prefill(llama, ids[row : row + 1], MoERouterPress(0.5, experts=experts))
        for one, other in zip(alone.layers, together.layers, strict=True):
            torch.testing.assert_close(one.values, other.values[row : row + 1])


def test_generate_goes_on_from_the_compressed_cache(llama, ids):
    press = MoERouterPress(0.5)
    with press(llama):
        output = llama.generate(ids, max_new_tokens=5, do_sample=False)
    assert output.shape == (1, 305)
    assert press.get_stats()["tokens_kept"] == 300  # two layers of 150, counted once: decoding compresses nothing


def test_several_tokens_after_compression(llama, ids):
    cache = prefill(llama, ids, MoERouterPress(0.5))
    with torch.no_grad():
        logits = llama(ids[:, :7], past_key_values=cache, position_ids=torch.arange(300, 307)[None]).logits
    assert logits.isfinite().all()
    assert cache.get_seq_length() == 157


def test_what_the_layer_projected_is_not_projected_again(llama, ids, monkeypatch):
    calls = []
    for layer in llama.model.layers:
        layer.self_attn.q_proj.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[1]))
    prefill(llama, ids, MoERouterPress(0.5))
    assert calls == [300, 300]


def test_the_model_is_left_as_it_was_found(llama, ids):
    def state():
        return [
            (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in llama.named_modules()
        ]

    before = state()
    prefill(llama, ids, MoERouterPress(0.5))
    assert state() == before

    class Failing(KnormPress):
        def score(self, *args, **kwargs):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        prefill(llama, ids, MoERouterPress(0.5, experts=[Failing()]))
    assert state() == before


def test_gradients_of_the_kept_rows_flow_and_scoring_keeps_no_graph(llama, ids):
    cache = DynamicCache()
    with MoERouterPress(0.5)(llama):
        llama(ids, past_key_values=cache)
    assert cache.layers[0].keys.requires_grad
    with recorded_scores() as scores, MoERouterPress(0.5)(llama):
        llama(ids, past_key_values=DynamicCache())
    assert not scores[0][0].requires_grad


def test_statistics(llama, ids):
    press = MoERouterPress(0.75)
    assert press.get_stats()["layer_stats"] == {}
    prefill(llama, ids, press)
    stats = press.get_stats()
    assert stats["compression_ratio"] == stats["reached_ratio"] == 0.75
    assert stats["bytes_before"] == 2 * 2 * 300 * 2 * 16 * 4
    assert stats["bytes_after"] == stats["bytes_before"] // 4
    assert 0 < stats["press_share"] < 1
    assert sum(stats["expert_shares"].values()) == pytest.approx(1)
    assert stats["avg_aux_loss"] > 0
    assert set(stats["layer_stats"]) == {0, 1}
    assert len(stats["layer_stats"][0]["expert_weights"]) == 2
    prefill(llama, ids, press)
    assert press.get_stats()["tokens_kept"] == stats["tokens_kept"]
    press.reset_stats()
    assert press.get_stats()["layer_stats"] == {} and press.get_stats()["press_seconds"] == 0


def test_debug_logging_shows_each_layers_decision(llama, ids, caplog):
    with caplog.at_level(logging.DEBUG, logger="pikvpress"):
        prefill(llama, ids, MoERouterPress(0.5))
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert [line.split(";")[0] for line in lines] == ["layer 0: keep 150 of 300", "layer 1: keep 150 of 300"]
    assert "compactor 0." in lines[0]


def test_the_prior_is_announced_once(llama, ids, caplog):
    press = MoERouterPress(0.5)
    logging.Logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="pikvpress"):
        prefill(llama, ids, press)
        prefill(llama, ids, press)
    assert sum("by its prior" in record.getMessage() for record in caplog.records) == 1


def test_repr_is_short_and_copies_work(llama, ids):
    press = MoERouterPress(0.5, experts=["knorm", "keydiff"])
    prefill(llama, ids, press)
    assert "tensor" not in repr(press) and len(repr(press)) < 500
    copied = copy.deepcopy(press)
    assert copied == press
    assert copied.get_stats()["tokens_kept"] == 300
    assert dataclasses.replace(press, router_type="base").router_type == "base"


def test_settings_are_fixed_but_for_the_ratio():
    press = MoERouterPress(0.5)
    press.compression_ratio = 0.25
    with pytest.raises(AttributeError, match="router_type cannot be changed"):
        press.router_type = "base"
    assert press.router_type == "pikv"
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1.0"):
        press.compression_ratio = 1.0
    assert press.compression_ratio == 0.25


@pytest.mark.parametrize(
    "setting",
    [
        {"top_k": 1},
        {"num_experts": 2},
        {"temperature": 0.2},
        {"cache_aware": False},
        {"adaptive_top_k": True, "importance_threshold": 0.3},
        {"router_type": "adaptive", "importance_threshold": 0.3},
        {"router_type": "hierarchical", "num_groups": 4},
        {"router_type": "hierarchical", "group_top_k": 2},
        {"router_type": "eplb", "top_k": 2, "capacity_factor": 4.0},
        {"experts": ["tova", "cur"]},
    ],
)
def test_every_setting_that_matters_now_changes_the_routing(llama, ids, setting):
    router = setting.get("router_type", "pikv")
    base = {"router_type": router} | ({"top_k": 2} if router == "eplb" else {})
    press, plain = MoERouterPress(0.5, **setting), MoERouterPress(0.5, **base)
    prefill(llama, ids, press)
    prefill(llama, ids, plain)
    assert press.plan.expert_shares() != plain.plan.expert_shares()


@pytest.mark.parametrize(
    "setting",
    [
        {"dropout": 0.5},
        {"aux_loss_weight": 3.0},
        {"router_type": "topk_balanced", "balance_mode": "gini"},
        {"router_type": "topk_balanced", "balance_coefficient": 5.0},
    ],
)
def test_settings_of_fitting_leave_the_kept_tokens_alone(llama, ids, setting):
    plain = prefill(llama, ids, MoERouterPress(0.5, router_type=setting.get("router_type", "pikv")))
    press = MoERouterPress(0.5, **setting)
    cache = prefill(llama, ids, press)
    assert torch.equal(cache.layers[1].keys, plain.layers[1].keys)
