"""Presses with decoding=True: what is generated is kept at the ratio of the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kvpress import (
    AdaKVPress,
    KnormPress,
    KVPressTextGenerationPipeline,
    PrefillDecodingPress,
    PyramidKVPress,
    SnapKVPress,
)
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.gates import save_gates
from pikvpress.saliency_features import num_features
from tests.cache.watching import Watched
from tests.evaluation.tiny_tokenizer import make_tokenizer
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


class LaterWithin(Watched):
    """Asserts after every forward that what a cache holds of the entries after a prompt is within a ratio of them."""

    def __init__(self, model, cache, ratio):
        self.steps, prompt, lengths = 0, {}, {}

        def check(index):
            held = [sum(layer.counts()[0]) for layer in cache.layers]
            if cache.current_schedule is None:
                prompt[index], lengths[index] = held[index], cache.layers[index].get_seq_length()
            elif index == len(cache.layers) - 1:
                read = cache.layers[0].get_seq_length() - lengths[0]
                share = max(int((1 - ratio) * read), WINDOW + 128)
                assert sum(held) - sum(prompt.values()) <= 4 * share
                self.steps += 1

        super().__init__(model, check)


PREFILLING = {
    "none": lambda: None,
    "snapkv": lambda: SnapKVPress(0.5, window_size=16),
    "masks": lambda: AdaKVPress(KnormPress(0.5)),
    "uneven layers": lambda: PyramidKVPress(0.5, window_size=16),
}


@pytest.mark.parametrize("prefilling", PREFILLING.values(), ids=PREFILLING)
@pytest.mark.parametrize(
    "make",
    [
        lambda gates: MoERouterPress(0.75, gates=gates, decoding=True),
        lambda gates: PiKVPress(0.75, gates=None, decoding="adaptive"),
    ],
    ids=["saliency", "adaptive"],
)
def test_as_the_decoding_press_of_kvpress(prefilling, make, gates, llama, ids):
    press, cache = PrefillDecodingPress(prefilling_press=prefilling(), decoding_press=make(gates)), PiKVCache(window=32)
    kept = PiKVCache()
    with torch.no_grad(), press(llama):
        llama.model(input_ids=ids, past_key_values=kept)
    with LaterWithin(llama, cache, 0.75) as within:
        tokens = generate(llama, ids, press, cache, new=220)
    assert within.steps == 219
    assert sum(cache.history.dropped().values()) > 0
    for layer, alone in zip(cache.layers, kept.layers, strict=True):
        alone.settle()
        before = alone.counts()[0]  # the prompt is as the prefilling press left it
        assert [len(layer.entries.compressed.context[0].keys.part(head)) for head in range(2)] == before
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)
    assert not llama.model._forward_pre_hooks
    cache.reset()
    assert torch.equal(generate(llama, ids, press, cache, new=9), tokens[:, :309])  # another prompt in the same cache


@pytest.mark.parametrize("prefilling", ["none", "snapkv"])
def test_as_the_decoding_press_in_the_pipeline(prefilling, llama):
    words = [f"w{number}" for number in range(500)]
    pipe = KVPressTextGenerationPipeline(model=llama, tokenizer=make_tokenizer(chat=False, vocabulary=words))
    ours, cache = MoERouterPress(0.75, gates=None, decoding="h2o"), PiKVCache(window=WINDOW)
    press = PrefillDecodingPress(prefilling_press=PREFILLING[prefilling](), decoding_press=ours)
    with LaterWithin(llama, cache, 0.75) as within:
        answer = pipe(" ".join(words[:300]), question="w7 w8", press=press, cache=cache, max_new_tokens=220)["answer"]
    assert within.steps == 220 and len(answer.split()) > 100  # the question is read at once
    assert cache.get_seq_length() == (301 if prefilling == "none" else 150)
    with pytest.raises(ValueError, match=r"a DynamicCache cannot do: .* or the pipeline with cache=PiKVCache"):
        pipe(" ".join(words[:300]), question="w7 w8", press=press)


def test_as_the_decoding_press_with_an_assistant(llama, ids):
    ours, cache = MoERouterPress(0.75, gates=None, decoding="streaming_llm"), PiKVCache(window=WINDOW)
    prompt, press = ids[:, :60].repeat(1, 5), PrefillDecodingPress(KnormPress(0.5), ours)
    with torch.no_grad(), press(llama), LaterWithin(llama, cache, 0.75) as within:
        tokens = llama.generate(
            prompt,
            past_key_values=cache,
            max_new_tokens=220,
            min_new_tokens=220,
            do_sample=False,
            eos_token_id=511,
            prompt_lookup_num_tokens=4,
        )
    assert tokens.shape[1] == 520 and 0 < within.steps < 220
    assert sum(cache.history.dropped().values()) > 0


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
