"""Presses with decoding=True: what is generated is kept at the ratio of the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kvpress import AdaKVPress
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.experts.saliency_features import num_features
from pikvpress.gates import save_gates
from tests.helpers import uneven_gates

WINDOW, NEW = 32, 400


@pytest.fixture
def gates(llama, tmp_path):
    weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(2))
    save_gates(tmp_path / "gates.safetensors", replace(uneven_gates(llama), saliency=weights))
    return tmp_path / "gates.safetensors"


@torch.no_grad()
def generate(model, ids, press, cache, new=NEW):
    with press(model):
        return model.generate(ids, past_key_values=cache, max_new_tokens=new, min_new_tokens=new, do_sample=False)


def later(cache, plan):
    """Return the entries that each head holds of what came after the prompt, by layer."""
    return [
        [count - kept for count, kept in zip(layer.counts()[0], of_plan.head_tokens, strict=True)]
        for layer, of_plan in zip(cache.layers, plan.layers, strict=True)
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda gates: MoERouterPress(0.75, gates=gates, decoding=True),
        lambda gates: MoERouterPress(0.75, gates=gates, budgets="equal", decoding=True),
        lambda gates: MoERouterPress(0.75, gates=None, decoding="h2o"),
        lambda gates: PiKVPress(0.9, gates=gates, decoding=True),
        lambda gates: PiKVPress(0.9, gates=None, decoding="streaming_llm"),
    ],
    ids=["fitted", "equal", "h2o", "bytes", "bytes, streaming_llm"],
)
def test_the_ratio_goes_on(make, gates, llama, ids):
    press, cache = make(gates), PiKVCache(window=WINDOW)
    tokens = generate(llama, ids, press, cache)
    plan = press.plan
    kept = sum(sum(layer.head_tokens) for layer in plan.layers)
    share = kept / (4 * ids.shape[1])
    held = later(cache, plan)
    assert sum(map(sum, held)) <= 4 * max(share * NEW, WINDOW + 128)
    assert sum(cache.history.dropped().values()) > 0 or share == 1
    assert min(map(min, held)) >= WINDOW
    if "fitted" in str(press.budgets) or (isinstance(press, PiKVPress) and press.decoding is True):
        order = [layer.head_tokens[0] > layer.head_tokens[1] for layer in plan.layers]
        assert order == [of_layer[0] > of_layer[1] for of_layer in held]  # heads keep their shares
    cache.reset()
    assert torch.equal(generate(llama, ids, press, cache), tokens)


def test_the_cache_goes_on_without_the_press(gates, llama, ids):
    press, cache = MoERouterPress(0.5, gates=gates, decoding=True), PiKVCache(window=WINDOW)
    with torch.no_grad(), press(llama):
        llama.model(input_ids=ids, past_key_values=cache)
    with torch.no_grad():
        for token in torch.randint(1, 511, (1, NEW)).split(1, dim=1):
            llama(token, past_key_values=cache)
    assert sum(map(sum, later(cache, press.plan))) <= 4 * 0.51 * NEW
    assert "saliency: 50% of the entries removed" in str(cache)


def test_nothing_is_said_about_entries_of_the_prompt(gates, llama, ids, caplog):
    generate(llama, ids, MoERouterPress(0.5, gates=gates, decoding=True), PiKVCache(window=WINDOW), new=2)
    assert "begins to record" not in caplog.text


def test_bad_input(gates, llama, ids):
    with pytest.raises(ValueError, match="unknown scheduler 'h20': did you mean h2o"):
        MoERouterPress(0.5, decoding="h20")
    with pytest.raises(TypeError, match="a scheduler is a name or an instance of Scheduler, got 3"):
        PiKVPress(0.5, decoding=3)
    with (
        pytest.raises(ValueError, match=r"no gates with its weights for this model: .*, or set decoding to .*'h2o'"),
        MoERouterPress(0.5, gates=None, decoding=True)(llama),
    ):
        pass
    cache = DynamicCache()
    with pytest.raises(ValueError, match="a DynamicCache cannot do: call the model with past_key_values=PiKVCache"):
        generate(llama, ids, MoERouterPress(0.5, gates=gates, decoding=True), cache)
    assert cache.get_seq_length() == 0
    with (
        pytest.raises(ValueError, match="decoding works without a wrapper"),
        AdaKVPress(MoERouterPress(0.5, gates=gates, decoding=True))(llama),
    ):
        pass
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=300)
    with pytest.raises(ValueError, match="MoERouterPress and scheduler 'h2o' would both decide"):
        generate(llama, ids, MoERouterPress(0.5, gates=gates, decoding=True), cache)
