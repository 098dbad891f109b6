"""A model reads and generates with a scheduled cache, which stays within its ceiling at every moment."""

from __future__ import annotations

import copy

import pytest
import torch
from kvpress import DecodingPress, KnormPress
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.codecs import EXACT
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import SCHEDULERS, DuoScheduler, SaliencyScheduler
from tests.cache.watching import Watched
from tests.conftest import make_tiny

WINDOW = 32
ENTRY = 2 * 16 * 4  # bytes of an entry of one head of the tiny model


def scheduler(name):
    """Return a scheduler that needs no gates."""
    weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(1))
    made = {
        "saliency": SaliencyScheduler(weights=weights),
        "duo": DuoScheduler(importance=torch.tensor([[1, 0], [0, 1]])),
    }
    return made.get(name, name)


DROPPING = [name for name in SCHEDULERS if name != "quest"]


@pytest.fixture
def text():
    return torch.randint(1, 511, (2, 420), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize(
    "limits", [{"max_tokens": 200}, {"max_bytes": 420_000}, {"ratio": 0.6}], ids=["max_tokens", "max_bytes", "ratio"]
)
def test_the_ceiling_holds_after_every_layer_of_every_forward(name, limits, llama, text):
    cache, chunk = PiKVCache(window=WINDOW, scheduler=scheduler(name), **limits), 100
    most = 0

    def check(index):
        nonlocal most
        read = cache.layers[index].get_seq_length()
        if "max_bytes" in limits:
            assert cache.nbytes <= limits["max_bytes"]
            most = max(most, cache.nbytes)
            return
        allowed = limits.get("max_tokens") or max(int(0.4 * read), WINDOW + 2 * PAGE)
        for row in cache.layers[index].counts():
            assert sum(row) <= 2 * allowed
            most = max(most, sum(row) / allowed / 2)

    with Watched(llama, check):
        for part in (*text[:, :300].split(chunk, dim=1), *text[:, 300:].split(1, dim=1)):
            llama(part, past_key_values=cache)
    assert cache.get_seq_length() == 420 and sum(cache.history.dropped().values()) > 0
    assert most > (0.8 * limits["max_bytes"] if "max_bytes" in limits else 0.7)  # what is allowed is used


@torch.no_grad()
@pytest.mark.parametrize("name", DROPPING)
def test_a_prompt_in_chunks_takes_the_ceiling_and_a_chunk(name, llama, text):
    cache, chunk, limit = PiKVCache(window=WINDOW, scheduler=scheduler(name), max_tokens=200), 60, 200
    whole = PiKVCache(window=WINDOW, scheduler=scheduler(name), max_tokens=200)
    peak = 0
    update = PiKVCache.update

    def watching(self, *args, **kwargs):
        nonlocal peak
        held = update(self, *args, **kwargs)
        peak = max(peak, *(sum(row) for row in self.layers[args[2]].counts()))
        return held

    PiKVCache.update = watching
    try:
        for part in text.split(chunk, dim=1):
            llama(part, past_key_values=cache)
    finally:
        PiKVCache.update = update
    assert peak <= 2 * (limit + chunk)
    llama(text, past_key_values=whole)
    assert whole.get_seq_length() == cache.get_seq_length()
    assert max(layer.nbytes for layer in cache.layers) <= 2 * 2 * limit * (ENTRY + 16) + 1000


@torch.no_grad()
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_full_budget_changes_nothing(name, llama, text):
    plain = DynamicCache()
    cache = PiKVCache(window=WINDOW, scheduler=scheduler(name), max_tokens=1000)
    none = PiKVCache(window=WINDOW, scheduler=scheduler(name), ratio=0.0)
    for part in (text[:, :150], text[:, 150:300], *text[:, 300:330].split(1, dim=1)):
        expected = llama(part, past_key_values=plain).logits
        assert torch.equal(llama(part, past_key_values=cache).logits, expected)
        assert torch.equal(llama(part, past_key_values=none).logits, expected)
    assert cache.history.steps == none.history.steps == []


@torch.no_grad()
@pytest.mark.parametrize("codec", ["int8", "int4", "rot4"])
@pytest.mark.parametrize("name", ["saliency", "h2o", "lru"])
def test_entries_in_few_bits(codec, name, llama, text):
    exact = PiKVCache(window=WINDOW, scheduler=scheduler(name), max_bytes=320_000)
    cache = PiKVCache(codec, codec, window=WINDOW, scheduler=scheduler(name), max_bytes=320_000)
    for part in (*text[:, :300].split(100, dim=1), *text[:, 300:].split(1, dim=1)):
        llama(part, past_key_values=exact)
        llama(part, past_key_values=cache)
        assert cache.nbytes <= 320_000
    assert cache.layers[0].codec_names() == (codec, codec)
    assert sum(cache.layers[0].counts()[0]) > 1.1 * sum(exact.layers[0].counts()[0])


@torch.no_grad()
def test_padding_is_refused(llama, text):
    mask = torch.ones_like(text[:, :200])
    mask[1, :20] = 0
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=200)
    with pytest.raises(
        ValueError, match=r"the batch is padded, .* batches of contexts of equal length, with scheduler 'h2o'"
    ):
        llama(text[:, :200], attention_mask=mask, past_key_values=cache)
    assert cache.get_seq_length() == 0 and cache.nbytes == 0
    llama(text, past_key_values=cache)
    cache = PiKVCache(window=WINDOW)
    llama(text[:, :200], attention_mask=mask, past_key_values=cache)
    held = cache.nbytes
    with pytest.raises(ValueError, match="the batch is padded"):
        cache.schedule("h2o", max_tokens=200)
    assert cache.nbytes == held and cache.history.steps == []


@torch.no_grad()
def test_sliding_layers_are_refused(text):
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=200)
    with pytest.raises(
        ValueError, match="layers with sliding-window attention, whose entries scheduler 'h2o' cannot drop"
    ):
        make_tiny("gemma3")(text, past_key_values=cache)
    assert cache.get_seq_length() == 0


@torch.no_grad()
@pytest.mark.parametrize("press", [KnormPress(0.5), PiKVPress(0.8, gates=None)], ids=lambda press: type(press).__name__)
def test_a_press_and_a_scheduler_do_not_both_decide(press, llama, text):
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=200)
    message = f"{type(press).__name__} and scheduler 'h2o' would both decide .* or call cache.schedule"
    with pytest.raises(ValueError, match=message), press(llama):
        llama.model(input_ids=text, past_key_values=cache)
    assert cache.get_seq_length() == 0
    cache = PiKVCache(window=WINDOW)
    with press(llama):
        llama.model(input_ids=text[:, :200], past_key_values=cache)
    cache.schedule("streaming_llm", ratio=0.5)
    for token in text[:, 200:].split(1, dim=1):
        llama(token, past_key_values=cache)


@torch.no_grad()
def test_decoding_presses_are_refused(llama, text):
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=200)
    llama.model(input_ids=text[:, :150], past_key_values=cache)
    with (
        pytest.raises(ValueError, match="DecodingPress and scheduler 'h2o' would both decide"),
        DecodingPress(base_press=KnormPress(), compression_interval=10, target_size=50)(llama),
    ):
        llama.model(input_ids=text[:, 150:151], past_key_values=cache)
    assert cache.get_seq_length() == 150


@torch.no_grad()
@pytest.mark.parametrize("codec", ["exact", "int8"])
def test_a_padded_context_is_refused_after_it_was_compressed_too(codec, llama, text, tmp_path):
    mask = torch.ones_like(text[:, :200])
    mask[1, :20] = 0
    cache = PiKVCache(codec, codec, window=WINDOW)
    with MoERouterPress(0.5, gates=None)(llama):
        llama.model(input_ids=text[:, :200], attention_mask=mask, past_key_values=cache)
    cache.save(tmp_path / "cache.safetensors")
    for one in (cache, PiKVCache.load(tmp_path / "cache.safetensors", llama), copy.deepcopy(cache)):
        with pytest.raises(ValueError, match="the batch is padded"):
            one.schedule("h2o", max_tokens=400)
        assert one.current_schedule is None
    cache.reset()
    cache.schedule("h2o", max_tokens=400)
    llama.model(input_ids=text[:, :200], past_key_values=cache)


@torch.no_grad()
def test_rows_that_differ_only_in_codecs_of_values_are_refused(llama, text):
    cache = PiKVCache(window=WINDOW)
    llama.model(input_ids=text[:, :200], past_key_values=cache)
    cache.layers[0]._following = ([EXACT] * 2, [EXACT] * 4)
    with pytest.raises(ValueError, match="the batch is padded"):
        cache.schedule("h2o", max_tokens=200)
