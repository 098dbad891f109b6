"""The ceiling of a scheduled cache holds at every step of whatever generates with it."""

from __future__ import annotations

import pytest
import torch
from kvpress import KVPressTextGenerationPipeline

from pikvpress import PiKVCache
from tests.cache.test_scheduled import WINDOW, scheduler, text  # noqa: F401 - a fixture
from tests.cache.watching import Within
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer

CEILING = 200
WORDS = [f"w{number}" for number in range(500)]


def scheduled(name):
    return PiKVCache(window=WINDOW, scheduler=scheduler(name), max_tokens=CEILING)


def assert_used(within, steps):
    """Assert that the ceiling was looked at after every layer of so many forwards, and was needed."""
    assert within.steps >= 2 * steps
    assert within.most > 2 * (CEILING - 64)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 3},
        {"prefill_chunk_size": 70},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["saliency", "h2o", "adaptive"])
def test_sampling_beams_and_batches(settings, name, llama, text):  # noqa: F811
    cache = scheduled(name)
    with Within(llama, cache, CEILING) as within:
        tokens = llama.generate(
            text[:, :250], past_key_values=cache, max_new_tokens=100, min_new_tokens=100, **settings
        )
    assert tokens.shape[1] == 350 and cache.get_seq_length() == 349
    assert_used(within, 100)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"do_sample": False}, {"num_beams": 3}], ids=str)
def test_selective_reading(settings, llama, text):  # noqa: F811
    cache = scheduled("quest")
    tokens = llama.generate(text[:, :250], past_key_values=cache, max_new_tokens=90, min_new_tokens=90, **settings)
    assert tokens.shape[1] == 340 and cache.get_seq_length() == 339


@torch.no_grad()
@pytest.mark.parametrize("name", ["adakv", "adaptive"])
def test_beams_hold_what_their_rows_held(name, llama, text):  # noqa: F811
    cache = scheduled(name)
    llama(text[:, :300], past_key_values=cache)
    step = torch.tensor([[7], [9]])
    expected = llama(step, past_key_values=cache).logits
    cache.crop(300)
    cache.reorder_cache(torch.tensor([1, 0, 1]))
    found = llama(torch.tensor([[9], [7], [9]]), past_key_values=cache).logits
    torch.testing.assert_close(found, expected[[1, 0, 1]])


@torch.no_grad()
@pytest.mark.parametrize("helper", ["prompt lookup", "assistant model"])
@pytest.mark.parametrize("name", ["streaming_llm", "adaptive"])
def test_assisted_decoding(name, helper, llama, text):  # noqa: F811
    cache, prompt = scheduled(name), text[:1, :60].repeat(1, 5)
    helps = {"prompt_lookup_num_tokens": 5} if helper == "prompt lookup" else {"assistant_model": make_tiny("llama", 1)}
    settings = {"max_new_tokens": 80, "do_sample": False, "eos_token_id": 511, "suppress_tokens": [511]}
    crops = []
    crop = cache.crop
    cache.crop = lambda length: crops.append(cache.get_seq_length() - length) or crop(length)
    with Within(llama, cache, CEILING) as within:
        tokens = llama.generate(prompt, past_key_values=cache, **helps, **settings)
    assert tokens.shape[1] == 380 and any(count > 0 for count in crops)
    assert_used(within, 20)


@torch.no_grad()
@pytest.mark.parametrize("name", ["h2o", "adaptive"])
def test_several_turns_on_one_cache(name, llama, text):  # noqa: F811
    cache, turns = scheduled(name), torch.empty(1, 0, dtype=torch.long)
    settings = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False}
    with Within(llama, cache, CEILING) as within:
        for turn in text[:1].split(140, dim=1):
            turns = llama.generate(torch.cat([turns, turn], dim=1), past_key_values=cache, **settings)
    assert turns.shape[1] == 420 + 90 and cache.get_seq_length() == 509
    assert_used(within, 90)


@torch.no_grad()
@pytest.mark.parametrize("name", ["saliency", "adaptive"])
def test_the_pipeline_of_kvpress(name, llama):
    cache = scheduled(name)
    pipe = KVPressTextGenerationPipeline(model=llama, tokenizer=make_tokenizer(chat=False, vocabulary=WORDS))
    with Within(llama, cache, CEILING) as within:
        found = pipe(" ".join(WORDS[:260]), questions=["w7 w8 w9", "w7 w8 w9"], cache=cache, max_new_tokens=90)
    assert cache.get_seq_length() == 261  # the answers have been removed again
    assert len(found["answers"]) == 2 and all(len(answer.split()) > 50 for answer in found["answers"])
    assert_used(within, 180)
