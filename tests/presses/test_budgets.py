"""Head budgets: the same number of tokens for every head, or distributed by fitted error curves."""

from __future__ import annotations

import pytest
import torch
from kvpress import AdaKVPress

from pikvpress import MoERouterPress, PiKVCache, models
from pikvpress.budgets import worth_by_curves
from pikvpress.gates import Gates, load_gates, save_gates
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing import BoundRouter
from tests.helpers import prefill

EXPERTS = ["keydiff", "knorm"]
# The second head of the first layer needs its tokens, the others hardly any.
CURVES = torch.tensor([[[0.0, 0.0, 0.1], [0.0, 5.0, 9.0]], [[0.0, 0.0, 0.2], [0.0, 0.0, 0.3]]])


def attentions(model):
    return models.attention_layers(model)


@pytest.fixture
def gates(tmp_path, llama):
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names(EXPERTS), 2, 2, RouterSettings(top_k=2))
    fitted = {name: value.clone() for name, value in router.state_dict().items()}
    fitted["static"][..., 1] = 50.0  # with fitted budgets, only knorm is used
    path = tmp_path / "gates.safetensors"
    model = models.fingerprint(llama.model.layers[0].self_attn)
    save_gates(
        path,
        Gates(
            model, EXPERTS, {"pikv": router.state_dict(), "pikv+fitted": fitted}, CURVES[None], (1.0, 0.5, 0.1), (0.5,)
        ),
    )
    return path


def test_fitted_budgets_spend_the_same_total(gates, llama, ids):
    press = MoERouterPress(0.5, gates=gates, budgets="fitted")
    cache = prefill(llama, ids, press)
    length = ids.shape[1]
    kept = [layer.head_tokens for layer in press.plan.layers]
    assert sum(map(sum, kept)) == 4 * (length // 2)
    assert kept[0][1] == length
    for layer, attention, counts in zip(cache.layers, models.attention_layers(llama), kept, strict=True):
        assert layer.keys.shape[2] == length
        _, heads, _ = attention.masked_key_indices
        assert torch.bincount(heads, minlength=2).tolist() == [length - count for count in counts]
    stats = press.get_stats()
    assert stats["bytes_after"] == stats["bytes_before"]
    assert stats["reached_ratio"] == pytest.approx(0.5, abs=1 / length)
    assert " to " in str(press.plan)


@pytest.fixture
def scores_seen(monkeypatch):
    """Records the scores of the last call, by layer."""
    seen = {}
    score = BoundRouter.score

    def remember(self, layer, *args):
        scored = score(self, layer, *args)
        seen[layer.index] = scored.scores
        return scored

    monkeypatch.setattr(BoundRouter, "score", remember)
    return seen


def test_the_best_scores_of_each_head_are_kept(gates, llama, ids, scores_seen):
    press = MoERouterPress(0.75, gates=gates, budgets="fitted")
    prefill(llama, ids, press)
    for attention, layer in zip(models.attention_layers(llama), press.plan.layers, strict=True):
        _, heads, positions = attention.masked_key_indices
        for head, count in enumerate(layer.head_tokens):
            removed = set(positions[heads == head].tolist())
            best = set(scores_seen[layer.layer][0, head].topk(count).indices.tolist())
            assert not removed & best and len(removed) + count == ids.shape[1]


def test_the_gates_are_those_fitted_for_the_budgets(gates, llama, ids):
    shares = {}
    for budgets in ("equal", "fitted"):
        press = MoERouterPress(0.5, gates=gates, budgets=budgets)
        prefill(llama, ids, press)
        shares[budgets] = press.get_stats()["expert_shares"]["knorm"]
    assert shares["fitted"] == pytest.approx(1) and shares["equal"] < 0.9


def test_a_cache_that_can_hold_fitted_budgets_gets_them(gates, llama, ids):
    press, cache = MoERouterPress(0.5, gates=gates), PiKVCache()
    with torch.no_grad(), press(llama):
        llama.model(input_ids=ids, past_key_values=cache)
    held = [layer.counts()[0] for layer in cache.layers]
    assert held[0][1] == ids.shape[1] and sum(map(sum, held)) == 4 * (ids.shape[1] // 2)
    assert press.get_stats()["expert_shares"]["knorm"] == pytest.approx(1)
    assert prefill(llama, ids, press).layers[0].keys.shape[2] == ids.shape[1] // 2  # and equal ones in a DynamicCache
    assert press.get_stats()["expert_shares"]["knorm"] < 0.9
    with torch.no_grad(), press(llama):
        llama.model(input_ids=ids, past_key_values=PiKVCache())
    prefill(llama, ids, AdaKVPress(press))
    without = PiKVCache()
    with torch.no_grad(), MoERouterPress(0.5, gates=None)(llama):
        llama.model(input_ids=ids, past_key_values=without)
    assert [layer.counts()[0] for layer in without.layers] == [[ids.shape[1] // 2] * 2] * 2


def test_equal_budgets_mask_nothing(gates, llama, ids):
    cache = prefill(llama, ids, MoERouterPress(0.5, gates=gates))
    assert cache.layers[0].keys.shape[2] == ids.shape[1] // 2
    assert all(layer.masked_key_indices is None for layer in models.attention_layers(llama))


def test_a_pyramid_leaves_layers_of_different_length(llama, ids):
    press = MoERouterPress(0.5, gates=None, budgets="pyramid")
    cache = prefill(llama, ids, press)
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert sum(lengths) == 2 * (ids.shape[1] // 2) and lengths[0] > 1.5 * lengths[1]
    assert [layer.head_tokens for layer in press.plan.layers] == [[length] * 2 for length in lengths]


def test_adakv_budgets_are_what_adakv_keeps(llama, ids):
    """Provided that AdaKV gets the scores on the scale that the router restores, and has the same floor."""
    press = MoERouterPress(0.6, gates=None, budgets="adakv")
    prefill(llama, ids, press)
    ours = [set(zip(*map(torch.Tensor.tolist, layer.masked_key_indices), strict=True)) for layer in attentions(llama)]
    prefill(llama, ids, AdaKVPress(MoERouterPress(0.6, gates=None), alpha_safeguard=0.2))
    theirs = [set(zip(*map(torch.Tensor.tolist, layer.masked_key_indices), strict=True)) for layer in attentions(llama)]
    for one, other in zip(ours, theirs, strict=True):
        assert len(one ^ other) <= 0.02 * len(one)
    assert any(len(set(layer.head_tokens)) > 1 for layer in press.plan.layers)


@pytest.mark.parametrize("budgets", ["adakv", "global"])
def test_pooled_scores_follow_the_error_curves_of_gates(budgets, gates, llama, ids):
    press = MoERouterPress(0.5, gates=gates, budgets=budgets)
    prefill(llama, ids, press)
    (idle, needy), *_ = [layer.head_tokens for layer in press.plan.layers]
    assert needy > 0.85 * ids.shape[1] and idle < 0.15 * ids.shape[1]


def test_adakv_over_gates_gives_tokens_to_the_head_that_needs_them(gates, llama, ids):
    prefill(llama, ids, AdaKVPress(MoERouterPress(0.5, gates=gates)))
    _, heads, _ = attentions(llama)[0].masked_key_indices
    removed = torch.bincount(heads, minlength=2)
    assert removed[0] > 5 * removed[1]


def test_a_score_is_what_the_token_is_worth(gates, llama, ids, scores_seen):
    press = MoERouterPress(0.5, gates=gates)
    prefill(llama, ids, press)
    worth = worth_by_curves(load_gates(gates), 0.5, 0, ids.shape[1])
    found = scores_seen[0][0].sort(dim=-1, descending=True).values
    torch.testing.assert_close(found, worth, atol=1e-5 / ids.shape[1], rtol=1e-5)


def test_a_global_pool_is_shared_over_layers_and_heads(llama, ids):
    press = MoERouterPress(0.6, gates=None, budgets="global")
    prefill(llama, ids, press)
    counts = [layer.head_tokens for layer in press.plan.layers]
    assert sum(map(sum, counts)) == 4 * 120 and len({*map(tuple, counts)}) > 1 and min(map(min, counts)) >= 24
    cache = PiKVCache()
    with torch.no_grad(), press(llama):
        llama.model(input_ids=ids, past_key_values=cache)
    assert [layer.counts()[0] for layer in cache.layers] == counts


def test_budgets_that_cannot_be_kept_are_refused(gates, llama, ids):
    with pytest.raises(ValueError, match=r"must be one of 'auto', 'equal', .*'global', got 'best'"):
        MoERouterPress(0.5, budgets="best")
    with pytest.raises(ValueError, match=r"needs gates that were fitted for this model"):
        prefill(llama, ids, MoERouterPress(0.5, gates=None, budgets="fitted"))
    with pytest.raises(ValueError, match="cannot be used inside another press"):
        prefill(llama, ids, AdaKVPress(MoERouterPress(0.5, gates=gates, budgets="fitted")))
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)
