"""PiKVCache in place of a DynamicCache, and what is removed from it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from kvpress import AdaKVPress, CriticalAdaKVPress, KnormPress, ThinKPress
from transformers import DynamicCache

from pikvpress import PiKVCache, models
from tests.cache.asking import CONTEXT, NEW, ask, masked_run, read
from tests.conftest import CONFIGS, make_tiny


@pytest.mark.parametrize("architecture", CONFIGS)
def test_without_a_press_it_is_a_dynamic_cache_to_the_last_bit(architecture, context, question):
    model = make_tiny(architecture)
    ours, theirs = read(model, context, PiKVCache()), read(model, context, DynamicCache())
    assert torch.equal(ask(model, question, ours), ask(model, question, theirs))
    assert ours.get_seq_length() == theirs.get_seq_length() == CONTEXT + 2 * NEW


def test_rectangles_of_presses_are_held_as_they_are(llama, context, question):
    press = KnormPress(0.5)
    ours, theirs = read(llama, context, PiKVCache(), press), read(llama, context, DynamicCache(), press)
    assert ours.nbytes == 2 * sum(layer.keys.nbytes for layer in theirs.layers)
    assert torch.equal(ask(llama, question, ours), ask(llama, question, theirs))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_masked_entries_are_gone_and_nothing_else_changes(architecture, context, question):
    model = make_tiny(architecture)
    press = AdaKVPress(KnormPress(0.6))
    expected = masked_run(model, context, question, press)
    cache = read(model, context, PiKVCache(), press)
    compressed = [layer for layer in models.attention_layers(model) if not models.is_sliding(layer)]
    whole = sum(2 * 2 * CONTEXT * layer.head_dim * 4 for layer in models.attention_layers(model))
    share = 0.4 if len(compressed) == 2 else 0.7
    held = cache.nbytes
    assert held == pytest.approx(share * whole, rel=0.01)
    cache.settle()
    assert cache.nbytes == held
    assert all(layer.masked_key_indices is None for layer in compressed if hasattr(layer, "masked_key_indices"))
    torch.testing.assert_close(ask(model, question, cache), expected, atol=1e-4, rtol=1e-4)
    assert cache.get_seq_length() == CONTEXT + 2 * NEW


def test_critical_adakv_too(llama, context, question):
    press = CriticalAdaKVPress(KnormPress(0.5))
    expected = masked_run(llama, context, question, press)
    cache = read(llama, context, PiKVCache(), press)
    torch.testing.assert_close(ask(llama, question, cache), expected, atol=1e-4, rtol=1e-4)


def test_channels_that_think_clears_take_no_bytes(llama, context, question):
    press = ThinKPress(key_channel_compression_ratio=0.5)
    exact = ask(llama, question, read(llama, context, DynamicCache(), press))
    cache = read(llama, context, PiKVCache("int8", "int8", window=0), press)
    whole = 2 * 2 * 2 * CONTEXT * 16
    assert cache.nbytes < whole * (0.75 + 0.2)
    assert (ask(llama, question, cache) - exact).abs().max() < 0.1


@pytest.mark.parametrize(("name", "tolerance"), [("int8", 0.02), ("int4", 0.5)])
def test_codecs_keep_what_they_can_in_fewer_bytes(name, tolerance, llama, context, question):
    exact = ask(llama, question, read(llama, context, DynamicCache()))
    cache = read(llama, context, PiKVCache(name, name, window=16))
    assert (ask(llama, question, cache) - exact).abs().max() < tolerance
    whole = 2 * 2 * 2 * CONTEXT * 16 * 4
    assert cache.nbytes < 0.5 * whole


def test_questions_in_turn_are_questions_alone(llama, context, question):
    questions = [question, question + 30, question + 60]
    alone = [ask(llama, one, read(llama, context, PiKVCache("int4", "int4", window=8))) for one in questions]
    cache = read(llama, context, PiKVCache("int4", "int4", window=8))
    for one, expected in zip(questions, alone, strict=True):
        assert torch.equal(ask(llama, one, cache), expected)
        cache.crop(CONTEXT)


def test_low_rank_contexts(llama, context, question):
    exact = ask(llama, question, read(llama, context, DynamicCache()))
    errors = []
    for name in ("rank4", "rank12", "rank12+int4"):
        cache = read(llama, context, PiKVCache(name, name, window=8))
        errors.append((ask(llama, question, cache) - exact).abs().mean())
        assert cache.nbytes < 0.6 * 2 * 2 * 2 * CONTEXT * 16 * 4
    assert errors[0] > errors[1] > errors[2]


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}]
)
@pytest.mark.parametrize("padded", [False, True])
def test_generate_is_as_with_a_dynamic_cache(settings, padded, llama, context):
    both = torch.cat([context[:, :50], context[:, 50:100]])
    mask = torch.ones_like(both)
    if padded:
        mask[1, :20] = 0
        both = both.masked_fill(mask == 0, 0)
    results = []
    for cache in (DynamicCache(), PiKVCache(), PiKVCache("int8", "int8", window=8)):
        torch.manual_seed(0)
        results.append(
            llama.generate(
                both, attention_mask=mask, past_key_values=cache, max_new_tokens=20, min_new_tokens=20, **settings
            )
        )
    assert torch.equal(results[0], results[1])
    assert (results[0] == results[2]).float().mean() > 0.8


@torch.no_grad()
def test_generate_with_a_press_that_masks(llama, context):
    length = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False}
    generated = []
    for cache in (DynamicCache(), PiKVCache()):
        with AdaKVPress(KnormPress(0.5))(llama):
            generated.append(llama.generate(context, past_key_values=cache, **length))
        for layer in models.attention_layers(llama):
            layer.masked_key_indices = None
    assert torch.equal(*generated)


def test_a_copy_goes_its_own_way(llama, context, question):
    for press in (None, AdaKVPress(KnormPress(0.5))):
        cache = read(llama, context, PiKVCache(), press)
        copy = deepcopy(cache)
        first = ask(llama, question, cache)
        assert copy.get_seq_length() == CONTEXT < cache.get_seq_length()
        torch.testing.assert_close(ask(llama, question, copy), first)


def test_reset_forgets_everything(llama, context, question):
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    expected = ask(llama, question, cache)
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0
    read(llama, context, cache, AdaKVPress(KnormPress(0.5)))
    assert torch.equal(ask(llama, question, cache), expected)


def test_the_table_says_what_is_held(llama, context):
    cache = read(llama, context, PiKVCache("int4", "int8", window=0), AdaKVPress(KnormPress(0.5)))
    text = str(cache)
    assert "int4" in text and "int8" in text and str(CONTEXT) in text
    assert str(PiKVCache()).strip()


def test_a_failed_forward_is_undone(llama, context, question):
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    expected = ask(llama, question, cache)
    cache.crop(CONTEXT)
    handle = llama.model.layers[0].mlp.register_forward_pre_hook(
        lambda *args: (_ for _ in ()).throw(RuntimeError("no"))
    )
    with pytest.raises(RuntimeError, match="no"):
        ask(llama, question, cache)
    handle.remove()
    with pytest.raises(ValueError, match=f"ended in layer 0 of 2; .* restored to the {CONTEXT} entries"):
        ask(llama, question, cache)
    assert cache.nbytes == held
    torch.testing.assert_close(ask(llama, question, cache), expected)


def test_bad_input(llama, context, question):
    with pytest.raises(ValueError, match="unknown codec 'int5'"):
        PiKVCache("int5")
    with pytest.raises(ValueError, match="window must be at least 0"):
        PiKVCache("int4", window=-1)
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    cache.crop(CONTEXT + 100)  # beyond the length, where transformers' caches do nothing
    with pytest.raises(ValueError, match=f"has {CONTEXT} entries, so 300 of them cannot be removed"):
        cache.crop(-300)
    with pytest.raises(ValueError, match=f"compressed context of {CONTEXT} entries and cannot be cropped to 100"):
        cache.crop(100)
    with pytest.raises(ValueError, match="one length for all heads"):
        cache.layers[0].keys = torch.zeros(1, 2, 50, 16)
    with pytest.raises(ValueError, match="already holds compressed entries"):
        cache.pack("int4", "int4")
    with pytest.raises(ValueError, match="needs one tensor: a press that compresses again"):
        cache.layers[0].keys.sum()
    assert cache.nbytes == held and cache.get_seq_length() == CONTEXT
