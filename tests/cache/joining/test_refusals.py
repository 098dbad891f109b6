"""What cannot be joined, and that nothing changes then."""

from __future__ import annotations

import copy

import pytest
import torch
from kvpress import KnormPress
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from pikvpress import PiKVCache
from tests.cache.asking import read
from tests.conftest import SIZES, make_tiny
from tests.vision import context, make_vision


@pytest.fixture
def documents(ids):
    return [ids[:, :30], ids[:, 100:150]]


@pytest.fixture
def first(llama, documents):
    return read(llama, documents[0], PiKVCache())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma3", "Gemma3ForCausalLM has layers with sliding windows"),
        ("gpt2", "GPT2LMHeadModel cannot be compressed: .* learned absolute positions"),
        ("cohere", "turn channels in another way"),
    ],
)
def test_models_without_the_right_positions(name, message, documents):
    with pytest.raises(ValueError, match=message):
        PiKVCache.join([PiKVCache(), PiKVCache()], make_tiny(name), documents)


def test_models_whose_frequencies_depend_on_the_length(llama, documents, first):
    llama.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(ValueError, match="angles that depend on the length of the text"):
        PiKVCache.join([first, first], llama, documents)


def test_a_press_on_the_model(llama, documents, first):
    with KnormPress(0.5)(llama), pytest.raises(ValueError, match="KnormPress is on the model"):
        PiKVCache.join([first, first], llama, documents)


def padded(model, ids):
    cache, mask = PiKVCache(), torch.ones_like(ids)
    mask[:, :5] = 0
    with torch.no_grad():
        model.model(ids, attention_mask=mask, past_key_values=cache)
    return cache


def unfilled(model, ids):
    cache = PiKVCache()
    cache.layers = [cache._new_layer(index) for index in range(2)]
    return cache


def of_more_heads(model, ids):
    config = AutoConfig.for_model("llama", **SIZES | {"num_key_value_heads": 4})
    return copy.deepcopy(read(AutoModelForCausalLM.from_config(config).eval(), ids, PiKVCache()))


CACHES = {
    "a scheduler keeps it": lambda model, ids: read(model, ids, PiKVCache(scheduler="streaming_llm", max_tokens=256)),
    "it has 0 layers": lambda model, ids: PiKVCache(),
    "it is empty": unfilled,
    "it holds a batch of 2": lambda model, ids: read(model, torch.cat([ids, ids]), PiKVCache()),
    "it is padded": padded,
    "it holds 51 tokens, and its document has 50: crop it": lambda model, ids: read(
        model, torch.cat([ids, ids[:, :1]], dim=1), PiKVCache()
    ),
    "another model has filled it .other shapes": of_more_heads,
}


@pytest.mark.parametrize("message", CACHES)
def test_caches_that_are_not_of_a_document(message, llama, documents, first):
    before = first.layers[0].keys.clone()
    second = CACHES[message](llama, documents[1])
    with pytest.raises(ValueError, match=f"cache 1 cannot be joined: {message}"):
        PiKVCache.join([first, second], llama, documents)
    assert torch.equal(first.layers[0].keys, before)


def test_caches_of_other_models(llama, documents, first):
    other, same = make_tiny(seed=1), make_tiny()
    with pytest.raises(ValueError, match=r"cache 1 cannot be joined: another model has filled it .other weights"):
        PiKVCache.join([first, read(other, documents[1], PiKVCache())], llama, documents)
    joined = PiKVCache.join([first, read(same, documents[1], PiKVCache())], llama, documents)
    assert joined.get_seq_length() == 80  # another object with the same weights
    double = copy.deepcopy(read(make_tiny().double(), documents[1], PiKVCache()))
    with pytest.raises(ValueError, match=r"different types \(torch.float32, torch.float64\)"):
        PiKVCache.join([first, double], llama, documents)


def test_other_things_than_caches_of_documents(llama, documents, first):
    with pytest.raises(ValueError, match="there are 1 caches, but token ids of 2 documents"):
        PiKVCache.join([first], llama, documents)
    with pytest.raises(TypeError, match="cache 1 is a DynamicCache"):
        PiKVCache.join([first, DynamicCache()], llama, documents)


def test_documents_with_images():
    model, inputs = make_vision("smolvlm"), context("smolvlm")
    caches = [PiKVCache(), PiKVCache()]
    for cache in caches:
        with torch.no_grad():
            model(**inputs, past_key_values=cache)
    with pytest.raises(ValueError, match="there are images in the documents"):
        PiKVCache.join(caches, model, [inputs["input_ids"]] * 2)
