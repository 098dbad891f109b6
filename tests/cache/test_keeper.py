"""Schedulers change between two tokens, entries are cropped, and what a press has compressed stays."""

from __future__ import annotations

import copy

import pytest
import torch
from kvpress import AdaKVPress, KnormPress

from pikvpress import PiKVCache, PiKVPress
from pikvpress.schedulers import SCHEDULERS, DuoScheduler, QuestScheduler, SaliencyScheduler
from tests.cache.test_scheduled import WINDOW, scheduler
from tests.schedulers.streams import held


@pytest.fixture
def text():
    return torch.randint(1, 511, (1, 500), generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def read(model, cache, ids):
    for part in ids.split(50, dim=1):
        logits = model(part, past_key_values=cache).logits
    return logits


def scheduled(model, text, name="h2o", **limits):
    cache = PiKVCache(window=WINDOW, scheduler=scheduler(name), **(limits or {"max_tokens": 200}))
    read(model, cache, text)
    return cache


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_goes_on_where_another_stopped(name, llama, text):
    for before in ("h2o", "saliency", "quest"):
        cache = scheduled(llama, text[:, :300], before)
        positions = held(cache, 0)
        cache.schedule(scheduler(name))
        after = held(cache, 0)
        assert all(set(later) <= set(earlier) for later, earlier in zip(after, positions, strict=True))
        if before != "quest" and not isinstance(scheduler(name), DuoScheduler):
            assert [len(part) for part in after] >= [WINDOW + 128 - 63] * 2
        read(llama, cache, text[:, 300:])
        assert cache.get_seq_length() == 500
        if name != "quest":
            assert all(sum(row) <= 2 * 200 for layer in cache.layers for row in layer.counts())


def test_what_both_record_is_taken_over(llama, text):
    cache = scheduled(llama, text[:, :300], "h2o")
    mass = cache.layers[1].keeper.records.ledger.observed["mass"]
    cache.schedule("adakv")
    assert torch.equal(cache.layers[1].keeper.records.ledger.observed["mass"], mass)
    cache.schedule("lru")
    assert set(cache.layers[1].keeper.records.ledger.observed) == {"last"}


def test_a_lower_ceiling_takes_effect_at_once(llama, text):
    cache = scheduled(llama, text, max_tokens=400)
    cache.schedule("h2o", max_tokens=180)
    assert all(max(row) <= 180 for layer in cache.layers for row in layer.counts())
    assert {step.length for step in cache.history.steps[-2:]} == {500}


def test_a_dense_cache_can_be_scheduled_later(llama, text, caplog):
    cache = PiKVCache(window=WINDOW)
    read(llama, cache, text[:, :300])
    cache.schedule("h2o", max_tokens=200)
    assert "'h2o' begins to record mass now" in caplog.text
    assert all(max(row) <= 200 for layer in cache.layers for row in layer.counts())
    read(llama, cache, text[:, 300:])
    cache.schedule(None)
    counts = cache.layers[0].counts()
    read(llama, cache, text[:, :100])
    assert [[count + 100 for count in row] for row in counts] == cache.layers[0].counts()


def test_what_cannot_be_done_changes_nothing(llama, text):
    cache = scheduled(llama, text)
    before, keeper, state = str(cache), cache.layers[0].keeper, held(cache, 0)
    for arguments, limits, message in (
        (("h3o",), {}, "unknown scheduler 'h3o': did you mean h2o"),
        (("lru",), {"max_tokens": 100}, "below the smallest cache, 160"),
        (("lru",), {"max_bytes": 100}, "below the smallest cache"),
        (("saliency",), {}, "no gates for this model with its weights"),
        (("duo",), {}, "no gates with error curves for this model"),
        ((QuestScheduler(),), {"max_bytes": 10**9}, "'quest' does not keep max_bytes"),
        ((SaliencyScheduler(append_only=True),), {}, "'saliency' does not keep max_tokens: give it ratio= instead"),
        ((None,), {"max_tokens": 300}, "a ceiling needs a scheduler"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.schedule(*arguments, **limits)
        assert str(cache) == before and cache.layers[0].keeper is keeper and held(cache, 0) == state
    read(llama, cache, text)


def test_what_a_press_compressed_stays(llama, text):
    for press in (AdaKVPress(KnormPress(0.5)), PiKVPress(0.8, gates=None)):
        cache = PiKVCache(window=WINDOW)
        with torch.no_grad(), press(llama):
            llama.model(input_ids=text[:, :200], past_key_values=cache)
        cache.settle()
        context = cache.layers[0].entries.compressed.context
        most = 100 if isinstance(press, AdaKVPress) else max(cache.layers[0].counts()[0])
        with pytest.raises(
            ValueError, match=f"smallest cache, {WINDOW + 128 + most} .* {most} of the compressed context"
        ):
            cache.schedule("h2o", max_tokens=most + 100)
        cache.schedule("h2o", max_tokens=most + WINDOW + 128)
        read(llama, cache, text[:, 200:])
        assert cache.layers[0].entries.compressed.context[: len(context)] == context
        assert all(sum(row) <= 2 * (most + WINDOW + 128) for layer in cache.layers for row in layer.counts())
        mass = cache.layers[0].keeper.records.ledger.observed["mass"]
        assert mass.sum() < 2 * 300  # of the attention, a part went to the context


@torch.no_grad()
def test_crops(llama, text):
    cache = scheduled(llama, text[:, :400], "h2o")
    before = held(cache, 0)
    expected = llama(text[:, 400:410], past_key_values=cache).logits
    cache.crop(400)
    torch.testing.assert_close(llama(text[:, 400:410], past_key_values=cache).logits, expected)
    cache.crop(300)  # among the stored entries
    assert held(cache, 0) == [[position for position in part if position < 300] for part in before]
    assert cache.get_seq_length() == 300
    read(llama, cache, text[:, 300:])
    assert all(max(row) <= 200 for layer in cache.layers for row in layer.counts())
    cache.crop(-cache.get_seq_length())
    assert cache.nbytes == 0
    read(llama, cache, text)
    packed = PiKVCache("int8", "int8", window=WINDOW, scheduler="h2o", max_tokens=200)
    read(llama, packed, text)
    with pytest.raises(ValueError, match="cannot be cropped to 300"):
        packed.crop(300)
    assert packed.get_seq_length() == 500


@torch.no_grad()
def test_a_sliced_dense_cache_is_cropped(llama, text):
    """As kvpress's pipeline does with the tokens of an answer."""
    cache = PiKVCache(window=WINDOW, scheduler="h2o", max_tokens=400)
    read(llama, cache, text[:, :200])
    for layer in cache.layers:
        layer.keys = layer.keys[:, :, :150]
        layer.values = layer.values[:, :, :150]
    assert cache.get_seq_length() == 150
    with pytest.raises(
        ValueError, match="scheduler 'h2o' decides what this layer keeps, so its keys and values cannot be"
    ):
        cache.layers[0].keys = torch.zeros(1, 2, 50, 16)
    read(llama, cache, text)
    assert all(max(row) <= 400 for layer in cache.layers for row in layer.counts())


@torch.no_grad()
@pytest.mark.parametrize("name", ["saliency", "duo"])
@pytest.mark.parametrize("kind", ["loaded", "after another", "copied"])
def test_a_cache_that_is_not_the_last_one_read_can_be_scheduled(kind, name, llama, text, tmp_path):
    cache = scheduled(llama, text[:, :300], max_tokens=260)
    if kind == "loaded":
        cache.save(tmp_path / "cache.safetensors")
        cache = PiKVCache.load(tmp_path / "cache.safetensors", llama)
    elif kind == "after another":
        read(llama, PiKVCache(), text[:, :50])
    else:
        cache = copy.deepcopy(cache)
    before = cache.layers[1].counts()
    cache.schedule(scheduler(name), max_tokens=180)
    met = kind != "copied"
    assert cache.current_schedule.met == met and (cache.layers[1].counts() != before) == met
    cache.batch_select_indices(torch.tensor([0]))
    llama(text[:, 300:301], past_key_values=cache)
    assert all(sum(row) <= 2 * 180 for layer in cache.layers for row in layer.counts())
    assert cache.get_seq_length() == 301 and sum(map(sum, cache.layers[1].counts())) > 2 * 100
