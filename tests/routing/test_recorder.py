"""What is recorded about a prefill."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from pikvpress.budgets import Decision, ScoredLayer
from pikvpress.moe import ExpertChoice
from pikvpress.routers import Routing
from pikvpress.routing.recorder import Recorder

ROUTING = Routing(torch.tensor([[[0.25, 0.75]]]), torch.tensor(0.5))
STATES = torch.zeros(1, 1, 10, 4)


def decided(layer):
    """Return the decision that the one head of a layer keeps 4 of 10 entries."""
    module = SimpleNamespace(layer_idx=layer, config=SimpleNamespace(num_key_value_heads=1))
    kept = torch.arange(10).view(1, 1, 10) < 4
    return Decision(ScoredLayer(module, STATES, STATES, kept.float(), ROUTING.weights), kept)


def recorded(layers=2):
    record = Recorder()
    record.describe("pikv", ["a", "b"], True)
    for layer in range(layers):
        record.enter(layer)
        record.record(layer, ROUTING, (STATES, STATES), 10, 5)
        record.selected(decided(layer), 128)
    return record


def test_the_plan_is_what_was_told():
    plan = recorded().plan(0.5)
    assert (plan.router, plan.fitted, plan.experts, plan.compression_ratio) == ("pikv", True, ["a", "b"], 0.5)
    assert [layer.head_tokens for layer in plan.layers] == [[4], [4]]
    assert plan.bytes_before == 2 * 320 and plan.bytes_after == 2 * 128


def test_bytes_that_a_cache_counted_come_before_those_that_were_expected():
    record = recorded()
    record.held([70, 80])
    assert record.plan(0.5).bytes_after == 150


def test_tokens_read_later_are_kept_whole():
    record = recorded(1)
    record.continued(10)
    (layer,) = record.plan(0.5).layers
    assert layer.num_keys == 20 and layer.head_tokens == [14] and layer.bytes_before == 640
    assert layer.bytes_after == 128 + 320


def test_an_earlier_layer_begins_a_new_prefill():
    record = recorded()
    record.enter(1)
    assert len(record.plan(0.5).layers) == 2
    record.enter(0)
    assert record.plan(0.5).layers == []


def test_figures_say_what_was_reached_only_if_all_layers_chose():
    record = recorded()
    stats = record.stats(record.plan(0.5))
    assert stats["tokens_kept"] == 8 and stats["reached_ratio"] == 1 - 8 / 20 and stats["avg_aux_loss"] == 0.5
    record.enter(2)
    record.record(2, ROUTING, (STATES, STATES), 10, 5)
    stats = record.stats(record.plan(0.5))
    assert stats["tokens_kept"] is None and stats["reached_ratio"] is None


def test_loads_add_up_without_padding_until_a_new_prefill():
    record = recorded()
    certain, even = torch.tensor([[90.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    record.chosen(1, ExpertChoice(torch.cat([certain, even, certain]), 1), torch.tensor([True, True, False]))
    record.chosen(1, ExpertChoice(certain.roll(1, 1), 1), None)
    (load,) = record.plan(0.5).moe
    assert (load.layer, load.tokens, load.per_token) == (1, 3, 1)
    assert load.load[1] >= 1 / 3 and sum(load.load) == 1
    assert abs(load.entropy - torch.tensor(3.0).log().item() / 3) < 1e-6
    assert load.imbalance == 3 * max(load.load)
    record.enter(0)
    assert record.plan(0.5).moe == []
