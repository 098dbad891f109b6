"""Masks are stored on the model: each reaches the cache it was made for, and no other."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, CriticalAdaKVPress, KnormPress
from transformers import DynamicCache

from pikvpress import PiKVCache, models
from pikvpress.cache import PiKVLayer
from pikvpress.cache.readers import READERS, Readers
from tests.cache.asking import CONTEXT, ask, masked_run, read, token
from tests.conftest import make_tiny


def test_a_mask_of_another_mode_does_not_reach_a_new_cache(llama, context):
    expected = token(make_tiny(), read(make_tiny(), context, PiKVCache()))
    read(llama, context, DynamicCache(), AdaKVPress(KnormPress(0.5)))
    llama.set_attn_implementation("eager")
    cache = read(llama, context, PiKVCache())
    torch.testing.assert_close(token(llama, cache), expected)
    assert all(layer.counts() == [[CONTEXT, CONTEXT]] for layer in cache.layers)


def test_a_mask_of_a_longer_context_does_not_reach_a_shorter_one(llama, context):
    read(llama, context, DynamicCache(), AdaKVPress(KnormPress(0.5)))
    llama.set_attn_implementation("eager")
    cache = read(llama, context[:, :20], PiKVCache())
    assert all(layer.counts() == [[20, 20]] for layer in cache.layers)


def test_caches_read_in_turn_keep_their_masks(llama, context):
    """The mask of a DynamicCache stays on the model while a PiKVCache is read, and vice versa."""
    press = AdaKVPress(KnormPress(0.5))
    expected = [
        token(make_tiny(), read(make_tiny(), context, PiKVCache())),
        *(token(model, read(model, context, DynamicCache(), press)) for model in (make_tiny(),)),
    ]
    plain = read(llama, context, PiKVCache())
    masked = read(llama, context, DynamicCache(), press)
    keys = masked.layers[0].keys.clone()
    for _ in range(2):
        assert torch.equal(token(llama, plain), expected[0])
        assert torch.equal(token(llama, masked), expected[1])
    assert all(layer.counts() == [[CONTEXT, CONTEXT]] for layer in plain.layers)
    assert not torch.equal(masked.layers[0].keys, keys), "the masked cache holds kvpress's fake keys"


def test_a_mask_goes_to_its_cache_when_another_is_read_on(llama, context):
    """The last layer's mask is applied at the next access, which here comes after another cache was used."""
    press = AdaKVPress(KnormPress(0.5))
    other = read(llama, context, DynamicCache())
    expected, alone = token(llama, other), token(llama, read(llama, context, PiKVCache(), press))
    masked = read(llama, context, PiKVCache(), press)
    assert torch.equal(token(llama, other), expected)
    assert torch.equal(token(llama, masked), alone)


def test_the_mask_of_a_cache_that_is_gone_reaches_no_other(llama, context):
    other = read(llama, context, DynamicCache())
    expected = token(llama, other)
    masked = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    assert models.attention_layers(llama)[-1].masked_key_indices is not None
    del masked
    gc.collect()
    assert torch.equal(token(llama, other), expected)


@pytest.mark.parametrize("press", [ComposedPress([CriticalAdaKVPress(KnormPress(0.3)), KnormPress(0.3)])])
def test_who_shortens_masked_entries_is_refused(llama, context, press):
    cache = PiKVCache()
    with pytest.raises(ValueError, match="one press has masked entries of this layer and another one removes entries"):
        read(llama, context, cache, press)
    assert token(llama, read(llama, context, PiKVCache())).isfinite().all()


def test_what_cannot_be_taken_out_is_told_to_its_own_cache(llama, context):
    both = torch.cat([context, context.flip(1)])
    mask = torch.ones_like(both)
    mask[1, :20] = 0
    padded, other = PiKVCache(), read(llama, context, DynamicCache())
    expected = token(llama, other)
    with torch.no_grad(), KnormPress(0.5)(llama):
        llama.model(both, attention_mask=mask, past_key_values=padded)
    last = models.attention_layers(llama)[-1]
    last.masked_key_indices = (torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(token(llama, other), expected)
    with pytest.raises(ValueError, match="a press has shortened a padded batch"):
        padded.layers[-1].counts()


def test_caches_in_turn_keep_to_their_own_masks(llama, context, question):
    """The mask is stored on the model: reading another prompt must neither lose it nor apply it there."""
    expected = masked_run(llama, context, question, AdaKVPress(KnormPress(0.5)))
    first = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    plain = read(llama, context, PiKVCache())
    other = read(llama, context, DynamicCache())
    torch.testing.assert_close(ask(llama, question, first), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(ask(llama, question, plain), ask(llama, question, other))


def test_keys_are_known_by_identity_and_their_layer_is_not_kept():
    readers, layer = Readers(), PiKVLayer()
    keys, equal = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)
    readers.give(keys, layer)
    assert readers.owner(keys) is layer and readers.owner(equal) is None
    assert not readers.stands_in(keys) and not readers.stands_in(equal)
    readers.give(equal, None)
    assert readers.stands_in(equal) and readers.owner(equal) is None
    gone = weakref.ref(layer)
    del layer
    assert gone() is None and readers.owner(keys) is None and not readers.stands_in(keys)


def test_a_reset_layer_has_no_reader(llama, context):
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    last = cache.layers[-1]
    assert READERS.module_of(last) is models.attention_layers(llama)[-1] and READERS.mask_of(last) is not None
    cache.reset()
    assert READERS.module_of(last) is None and READERS.mask_of(last) is None
