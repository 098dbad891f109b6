"""Masks lie on the model: each reaches the cache that it was made for, and no other."""

from __future__ import annotations

import gc
import sys

import pytest
import torch
from kvpress import (
    AdaKVPress,
    ComposedPress,
    CriticalAdaKVPress,
    DecodingPress,
    DMSPress,
    KnormPress,
    KVComposePress,
    PrefillDecodingPress,
)
from transformers import AttentionInterface, DynamicCache

from pikvpress import MoERouterPress, PiKVCache, models
from pikvpress.cache import masks
from tests.conftest import make_tiny

LENGTH = 100


@pytest.fixture
def ids(ids):
    return ids[:, :LENGTH]


@torch.no_grad()
def read(model, ids, cache, press=None):
    if press is None:
        model.model(input_ids=ids, past_key_values=cache)
    else:
        with press(model):
            model.model(input_ids=ids, past_key_values=cache)
    return cache


@torch.no_grad()
def token(model, cache, place=LENGTH):
    """Return the logits after one more token, and forget it."""
    positions = torch.tensor([[place]])
    logits = model(torch.tensor([[7]]), past_key_values=cache, position_ids=positions).logits
    cache.crop(cache.get_seq_length() - 1)
    return logits


def test_a_mask_of_another_mode_does_not_reach_a_new_cache(llama, ids):
    expected = token(make_tiny(), read(make_tiny(), ids, PiKVCache()))
    read(llama, ids, DynamicCache(), AdaKVPress(KnormPress(0.5)))
    llama.set_attn_implementation("eager")
    cache = read(llama, ids, PiKVCache())
    torch.testing.assert_close(token(llama, cache), expected)
    assert all(layer.counts() == [[LENGTH, LENGTH]] for layer in cache.layers)


def test_a_mask_of_a_longer_context_does_not_reach_a_shorter_one(llama, ids):
    read(llama, ids, DynamicCache(), AdaKVPress(KnormPress(0.5)))
    llama.set_attn_implementation("eager")
    cache = read(llama, ids[:, :20], PiKVCache())
    assert all(layer.counts() == [[20, 20]] for layer in cache.layers)


@pytest.mark.parametrize("structured", [True, False])
def test_kvcompose_twice_in_a_row(llama, ids, structured):
    """It sets eager attention itself, for as long as it reads."""
    answers = []
    for _ in range(2):
        cache = read(llama, ids, PiKVCache(), KVComposePress(structured=structured, compression_ratio=0.5))
        answers.append(token(llama, cache, 2 * LENGTH))
        assert llama.config._attn_implementation == "sdpa"
    assert torch.equal(*answers)


def test_caches_read_in_turn_keep_their_masks(llama, ids):
    """A DynamicCache's mask waits on the model while a PiKVCache is read, and the other way round."""
    press = AdaKVPress(KnormPress(0.5))
    expected = [
        token(make_tiny(), read(make_tiny(), ids, PiKVCache())),
        *(token(model, read(model, ids, DynamicCache(), press)) for model in (make_tiny(),)),
    ]
    plain = read(llama, ids, PiKVCache())
    masked = read(llama, ids, DynamicCache(), press)
    keys = masked.layers[0].keys.clone()
    for _ in range(2):
        assert torch.equal(token(llama, plain), expected[0])
        assert torch.equal(token(llama, masked), expected[1])
    assert all(layer.counts() == [[LENGTH, LENGTH]] for layer in plain.layers)
    assert not torch.equal(masked.layers[0].keys, keys), "kvpress writes its fake keys into the cache that was masked"


def test_a_mask_goes_to_its_cache_when_another_is_read_on(llama, ids):
    """The last layer's mask waits for the next look, which here comes after another cache went on."""
    press = AdaKVPress(KnormPress(0.5))
    other = read(llama, ids, DynamicCache())
    expected, alone = token(llama, other), token(llama, read(llama, ids, PiKVCache(), press))
    masked = read(llama, ids, PiKVCache(), press)
    assert torch.equal(token(llama, other), expected)
    assert torch.equal(token(llama, masked), alone)


def test_the_mask_of_a_cache_that_is_gone_reaches_no_other(llama, ids):
    other = read(llama, ids, DynamicCache())
    expected = token(llama, other)
    masked = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    assert models.attention_layers(llama)[-1].masked_key_indices is not None
    del masked
    gc.collect()
    assert torch.equal(token(llama, other), expected)


@pytest.mark.parametrize("press", [ComposedPress([CriticalAdaKVPress(KnormPress(0.3)), KnormPress(0.3)])])
def test_who_shortens_masked_entries_is_refused(llama, ids, press):
    cache = PiKVCache()
    with pytest.raises(ValueError, match="one press has masked entries of this layer and another removes some"):
        read(llama, ids, cache, press)
    assert token(llama, read(llama, ids, PiKVCache())).isfinite().all()


def test_what_cannot_be_taken_out_is_told_to_its_own_cache(llama, ids):
    both = torch.cat([ids, ids.flip(1)])
    mask = torch.ones_like(both)
    mask[1, :20] = 0
    padded, other = PiKVCache(), read(llama, ids, DynamicCache())
    expected = token(llama, other)
    with torch.no_grad(), KnormPress(0.5)(llama):
        llama.model(both, attention_mask=mask, past_key_values=padded)
    last = models.attention_layers(llama)[-1]
    last.masked_key_indices = (torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(token(llama, other), expected)
    with pytest.raises(ValueError, match="a press has shortened a padded batch"):
        padded.layers[-1].counts()


@pytest.mark.parametrize("budgets", ["adakv", "global"])
def test_masks_are_heeded_in_eager_attention_too(llama, ids, budgets):
    press = MoERouterPress(0.5, gates=None, budgets=budgets)
    answers = []
    for mode in ("sdpa", "eager"):
        llama.set_attn_implementation(mode)
        answers += [token(llama, read(llama, ids, cache(), press)) for cache in (DynamicCache, PiKVCache)]
    llama.set_attn_implementation("eager")
    whole = token(llama, read(llama, ids, DynamicCache()))
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], atol=1e-4, rtol=1e-4)
    assert (answers[0] - whole).abs().max() > 1e-2


def test_the_eager_function_is_the_one_that_the_model_passes(llama, ids, monkeypatch):
    """Some models have several in one file, under other names."""
    file = sys.modules[type(llama.model.layers[0].self_attn).__module__]
    calls = []

    def of_another_name(*args, **kwargs):
        calls.append(args[0].layer_idx)
        return own(*args, **kwargs)

    own = file.eager_attention_forward
    look_up = AttentionInterface.get_interface
    monkeypatch.setattr(
        AttentionInterface, "get_interface", lambda self, name, default: look_up(self, name, of_another_name)
    )
    llama.set_attn_implementation("eager")
    cache = read(llama, ids, PiKVCache(), KnormPress(0.5))
    assert calls == [0, 1] and token(llama, cache).isfinite().all()


def test_masks_that_are_no_tensors_are_left_to_their_own_attention():
    """Flex attention's, that is."""
    mask = object()
    assert masks.fitted(mask, 5) is mask and masks.padding(mask, 5) is None
    with pytest.raises(ValueError, match="of flex attention cannot be read beside a PiKVCache's entries"):
        masks.hidden(mask, 3, 5, torch.device("cpu"))


@pytest.mark.parametrize(
    ("press", "cache", "message"),
    [
        (
            DMSPress(KnormPress(), threshold=-3.0, decoding=True),
            PiKVCache(),
            r"DMSPress\(decoding=True\) masks",
        ),
        (
            DecodingPress(KnormPress(), 4, 48),
            PiKVCache("int8", "int8"),
            "DecodingPress compresses again while decoding",
        ),
        (
            PrefillDecodingPress(KnormPress(0.5), DecodingPress(KnormPress(), 4, 48)),
            PiKVCache("int4", "int4"),
            "PrefillDecodingPress compresses again while decoding",
        ),
    ],
)
def test_presses_that_will_want_more_while_decoding_are_refused_at_the_start(llama, ids, press, cache, message):
    with pytest.raises(ValueError, match=message):
        read(llama, ids, cache, press)
