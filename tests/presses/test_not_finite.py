"""NaN and infinite numbers, from broken weights or overflow, lead to one clear error."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from kvpress import AdaKVPress
from transformers import DynamicCache

from pikvpress import (
    ChunkScorePress,
    FastVPress,
    MoERouterPress,
    PiKVCache,
    PiKVPress,
    ProbeAttentionPress,
    SaliencyPress,
    WindowedObservedAttentionPress,
    available_experts,
)
from pikvpress.saliency_features import num_features
from tests.conftest import make_tiny
from tests.helpers import kept_positions, prefill

PRESSES = {
    **{f"expert {name}": lambda name=name: MoERouterPress(0.5, experts=[name]) for name in available_experts()},
    "moe": lambda: MoERouterPress(0.5, gates=None),
    "moe adakv": lambda: MoERouterPress(0.5, gates=None, budgets="adakv"),
    "pikv": lambda: PiKVPress(0.8, gates=None),
    "saliency": lambda: SaliencyPress(0.5, torch.ones(2, 2, num_features(16))),
    "probe": lambda: ProbeAttentionPress(0.5),
    "observed": lambda: WindowedObservedAttentionPress(0.5),
    "chunk": lambda: ChunkScorePress(0.5),
    "fastv": lambda: FastVPress(0.5, layer=0),
    "a cache with codecs": None,
}
NO_QUERIES = ("expert keydiff", "expert lagkv", "expert knorm", "expert cur", "expert streaming_llm", "saliency")


def broken(weight, value):
    model = make_tiny()
    with torch.no_grad():
        if weight == "embedding":
            model.model.embed_tokens.weight[5] = value
        else:
            getattr(model.model.layers[0].self_attn, weight).weight[3, 3] = value
    return model


@pytest.fixture(scope="module", params=[float("nan"), float("inf")], ids=["NaN", "infinity"])
def models(request):
    return {name: broken(name, request.param) for name in ("k_proj", "v_proj", "q_proj", "embedding")}


@torch.no_grad()
def attempt(model, ids, make, cache):
    with make()(model) if make is not None else nullcontext():
        model(ids, past_key_values=cache)


@pytest.fixture
def numbers():
    return torch.arange(1, 201)[None]


@pytest.mark.parametrize("weight", ["k_proj", "v_proj", "embedding"])
@pytest.mark.parametrize("make", PRESSES.values(), ids=PRESSES)
def test_keys_and_values_are_named_with_their_layer(models, numbers, make, weight):
    cache = PiKVCache() if make is not None else PiKVCache("int4", "int4")
    named = {"k_proj": "keys", "v_proj": "values", "embedding": "keys and values"}
    with pytest.raises(ValueError, match=named[weight] + " of layer 0 contain NaN or infinite numbers"):
        attempt(models[weight], numbers, make, cache)
    assert not any(layer.self_attn._forward_hooks for layer in models[weight].model.layers)


@pytest.mark.parametrize("make", [make for make in PRESSES.values() if make is not None])
@pytest.mark.parametrize("cache", [DynamicCache, PiKVCache])
def test_the_cache_is_as_it_was(models, numbers, make, cache):
    held = cache()
    if isinstance(make(), PiKVPress) and cache is DynamicCache:
        pytest.skip("PiKVPress stores bytes, which a DynamicCache cannot hold")
    with pytest.raises(ValueError, match="contain NaN or infinite numbers"):
        attempt(models["k_proj"], numbers, make, held)
    assert held.get_seq_length() == 0 and all(layer.get_seq_length() == 0 for layer in held.layers)
    model = make_tiny()
    attempt(model, numbers, make, held)
    fresh = cache()
    attempt(model, numbers, make, fresh)
    ask = {"input_ids": numbers[:, :3], "position_ids": torch.arange(200, 203)[None]}
    with torch.no_grad():
        assert torch.equal(model(past_key_values=held, **ask).logits, model(past_key_values=fresh, **ask).logits)


@pytest.mark.parametrize("name", [name for name in PRESSES if name not in (*NO_QUERIES, "a cache with codecs")])
def test_broken_queries_show_in_the_scores_of_who_reads_them(models, numbers, name):
    with pytest.raises(ValueError, match="in layer 0 are NaN, though its hidden states, keys and values are finite"):
        attempt(models["q_proj"], numbers, PRESSES[name], PiKVCache())


@pytest.mark.parametrize("name", NO_QUERIES)
def test_and_else_in_the_next_layer(models, numbers, name):
    with pytest.raises(ValueError, match="the hidden states and keys and values of layer 1 contain NaN"):
        attempt(models["q_proj"], numbers, PRESSES[name], PiKVCache())


def test_float16_that_overflows(numbers):
    model = make_tiny()
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1e5)
    with pytest.raises(ValueError, match=r"keys of layer 1 contain NaN or infinite .* load it in bfloat16 or float32"):
        attempt(model.to(torch.float16), numbers, PRESSES["moe"], DynamicCache())


def test_the_first_error_of_an_expert_that_is_not_about_numbers_is_its_own(llama, ids):
    class Failing(ProbeAttentionPress):
        def score(self, *args, **kwargs):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        prefill(llama, ids, MoERouterPress(0.5, experts=[Failing()]))


def test_a_cache_with_codecs_says_that_it_has_been_taken_back(models, numbers):
    cache = PiKVCache("int4", "int4")
    with pytest.raises(ValueError, match="keys of layer 0 contain NaN"):
        attempt(models["k_proj"], numbers, None, cache)
    with pytest.raises(ValueError, match="ended in layer 0 of 2; the cache has been restored to the 0 entries"):
        attempt(make_tiny(), numbers, None, cache)
    attempt(make_tiny(), numbers, None, cache)
    assert cache.get_seq_length() == 200


def test_numbers_too_large_for_scales_are_named_with_their_layer(numbers):
    model = make_tiny()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(1e7)
    with pytest.raises(ValueError, match=r"layer 0: states up to .* cannot be packed: scales are stored in float16"):
        attempt(model, numbers, None, PiKVCache("int4", "int4"))


def test_sliding_layers_are_emptied_too(numbers):
    model = make_tiny("gemma3")
    sliding = [index for index, layer in enumerate(model.model.layers) if layer.self_attn.is_sliding]
    with torch.no_grad():
        model.model.layers[-1].self_attn.v_proj.weight[3, 3] = float("nan")
    held = DynamicCache(config=model.config)
    with pytest.raises(ValueError, match="contain NaN"):
        attempt(model, numbers, lambda: MoERouterPress(0.5, gates=None), held)
    assert sliding and all(layer.get_seq_length() == 0 for layer in held.layers)
    sound = make_tiny("gemma3")
    fresh = DynamicCache(config=model.config)
    for cache in (held, fresh):
        attempt(sound, numbers, lambda: MoERouterPress(0.5, gates=None), cache)
    assert all(torch.equal(one.keys, other.keys) for one, other in zip(held.layers, fresh.layers, strict=True))


def test_wrappers_that_ask_our_router_are_told_too(models, numbers):
    with pytest.raises(ValueError, match="keys of layer 0 contain NaN or infinite numbers"):
        attempt(models["k_proj"], numbers, lambda: AdaKVPress(MoERouterPress(0.5, gates=None)), PiKVCache())


@pytest.mark.parametrize("name", ["saliency", "probe", "observed", "chunk"])
def test_our_scorers_keep_entries_in_position_order(llama, ids, name):
    cache, full = prefill(llama, ids, PRESSES[name]()), prefill(llama, ids)
    for one, other in zip(cache.layers, full.layers, strict=True):
        positions = kept_positions(one.values, other.values)
        assert positions.shape[-1] == 150 and (positions.diff(dim=-1) > 0).all()
