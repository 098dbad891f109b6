"""Presses that leave layers of different lengths: a question reads them the same at once as token by token."""

from __future__ import annotations

import logging

import pytest
import torch
from kvpress import KnormPress, PerLayerCompressionPress, PyramidKVPress
from transformers import AttentionInterface, DynamicCache, LlamaConfig, LlamaForCausalLM

from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVCache
from tests.conftest import SIZES

OURS = ("fastv", "short layers first", "long layers first", "pyramid")
PRESSES = {
    "fastv": lambda: FastVPress(0.5, layer=1),
    "short layers first": lambda: PerLayerPress({0: KnormPress(0.7), 2: KnormPress(0.2)}),
    "long layers first": lambda: PerLayerPress({1: KnormPress(0.2), 3: MoERouterPress(0.7, gates=None)}),
    "pyramid": lambda: MoERouterPress(0.5, gates=None, budgets="pyramid"),
    "an emptied layer": lambda: PerLayerCompressionPress(KnormPress(), [0.1, 0.5, 1, 0.5]),
    "an emptied first layer": lambda: PerLayerCompressionPress(KnormPress(), [1, 0.1, 0.1, 0.5]),
    "kvpress's own": lambda: PyramidKVPress(0.5, window_size=16),
}


@pytest.fixture(scope="module")
def deep():
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(LlamaConfig(**SIZES | {"num_hidden_layers": 4})).eval()


@torch.no_grad()
def answers(model, ids, press, cache, together):
    """Return the logits after each of five more tokens."""
    with press(model):
        model.model(input_ids=ids, past_key_values=cache)
    places = [slice(0, 5)] if together else [slice(i, i + 1) for i in range(5)]
    positions = ids.shape[1] + torch.arange(5)[None]
    logits = [model(ids[:, at], past_key_values=cache, position_ids=positions[:, at]).logits for at in places]
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("mode", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize("make", PRESSES.values(), ids=PRESSES)
def test_a_question_sees_what_single_tokens_see(deep, ids, make, cache, mode):
    deep.set_attn_implementation(mode)
    one_by_one = answers(deep, ids, make(), cache(), together=False)
    torch.testing.assert_close(answers(deep, ids, make(), cache(), together=True), one_by_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [make for name, make in PRESSES.items() if name in OURS])
def test_where_a_question_would_fail_it_is_said_at_the_start(deep, ids, make, monkeypatch, caplog):
    """Before transformers 5, models do not look up eager attention, and their mask fits only the first layer."""
    monkeypatch.delattr(AttentionInterface, "get_interface")
    for mode, said in (("eager", True), ("sdpa", False)):
        deep.set_attn_implementation(mode)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="pikvpress"), make()(deep):
            pass
        assert ("may leave layers of different lengths" in caplog.text) is said
