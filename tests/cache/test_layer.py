"""A layer, used as transformers and presses use it."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from kvpress import AdaKVPress, KnormPress, PyramidKVPress
from transformers import DynamicCache

from pikvpress import PiKVCache
from pikvpress.cache import CODECS
from tests.cache.asking import CONTEXT, NEW, ask, read


@pytest.mark.parametrize("grad", [False, True])
def test_cutting_what_stands_for_keys_crops_the_layer(grad, llama, context, question):
    """As kvpress's pipeline does after every answer, layer by layer, keys and values."""
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    first = ask(llama, question, cache)
    with torch.set_grad_enabled(grad):
        for layer in cache.layers:
            layer.keys = layer.keys[:, :, :CONTEXT]
            layer.values = layer.values[:, :, :CONTEXT]
    assert cache.nbytes == held and cache.get_seq_length() == CONTEXT
    assert torch.equal(ask(llama, question, cache), first)


@torch.no_grad()
def test_what_follows_is_packed_group_by_group(llama, context):
    cache = read(llama, context, PiKVCache("int8", "int8", window=10))
    exact = read(llama, context, DynamicCache())
    more = torch.randint(1, 500, (1, 300), generator=torch.Generator().manual_seed(1))
    for start in range(0, 300, 7):
        piece = more[:, start : start + 7]
        positions = torch.arange(CONTEXT + start, CONTEXT + start + piece.shape[1])[None]
        ours = llama(input_ids=piece, past_key_values=cache, position_ids=positions).logits
        theirs = llama(input_ids=piece, past_key_values=exact, position_ids=positions).logits
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
    layer = cache.layers[0]
    assert layer.entries.compressed.decoded.length == 256 and layer.entries.tail.keys.shape[2] == 44
    assert cache.get_seq_length() == CONTEXT + 300
    before = cache.nbytes
    cache.crop(CONTEXT + 100)  # 64 stay packed, 36 are unpacked
    assert (
        layer.entries.compressed.decoded.length == 64
        and layer.entries.tail.keys.shape[2] == 36
        and cache.nbytes < before
    )
    cache.crop(-40)
    assert layer.entries.compressed.decoded is None and layer.entries.tail.keys.shape[2] == 60


def test_beams_and_batches_take_rows(llama, context, question):
    press = AdaKVPress(KnormPress(0.5))
    cache = read(llama, context, PiKVCache(), press)
    expected = ask(llama, question, cache)
    cache.crop(CONTEXT)
    cache.batch_repeat_interleave(3)
    both = ask(llama, question.expand(3, -1), cache)
    torch.testing.assert_close(both, expected.expand(3, -1, -1), atol=1e-5, rtol=1e-5)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.layers[0].entries.tail.keys.shape[0] == 1 and len(cache.layers[0].counts()) == 1


def test_layers_may_have_different_lengths(llama, context, question):
    """kvpress's PyramidKVPress leaves such layers, and sdpa then fails with a DynamicCache."""
    press = PyramidKVPress(0.5, window_size=16)
    cache = read(llama, context, PiKVCache(), press)
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths[0] > lengths[1]
    logits = ask(llama, question, cache)
    for layer, length in zip(cache.layers, lengths, strict=True):
        layer.crop(length)
    one_by_one = torch.cat(
        [
            llama(
                input_ids=question[:, i : i + 1], past_key_values=cache, position_ids=torch.tensor([[CONTEXT + i]])
            ).logits
            for i in range(NEW)
        ],
        dim=1,
    )
    torch.testing.assert_close(logits[:, :NEW], one_by_one, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_prompt_that_cannot_be_recorded_is_not_held(llama, context):
    codecs = [CODECS["int4"]] * 3  # for another number of heads than the model has
    cache = PiKVCache(scheduler="h2o", max_tokens=300)
    for _ in range(2):
        given = patch("pikvpress.cache.pikv_cache.of_layer", lambda *_: (codecs, codecs))
        with given, pytest.raises(ValueError, match="there are codecs for 3 KV heads, but 2 heads"):
            llama.model(input_ids=context, past_key_values=cache)
        assert cache.get_seq_length() == 0 and cache.nbytes == 0
    cache = PiKVCache(scheduler="h2o", max_tokens=300)
    llama.model(input_ids=context, past_key_values=cache)
    layer = cache.layers[0]
    states = torch.zeros(1, 2, 1, layer.entries.tail.keys.shape[3])
    refusing = patch.object(layer.keeper, "arrived", side_effect=ValueError("not recorded"))
    with refusing, pytest.raises(ValueError, match="not recorded"):
        layer.update(states, states)
    assert layer.get_seq_length() == context.shape[1]


@pytest.mark.parametrize("removes_none", [False, True])
def test_cropping_to_0_does_what_it_does_in_the_caches_of_transformers(llama, context, monkeypatch, removes_none):
    monkeypatch.setattr("pikvpress.cache.layer.ZERO_REMOVES_NONE", removes_none)
    monkeypatch.setattr("pikvpress.cache.pikv_cache.ZERO_REMOVES_NONE", removes_none)
    cache = read(llama, context, PiKVCache())
    cache.layers[1].crop(0)
    assert cache.layers[1].get_seq_length() == (CONTEXT if removes_none else 0)
    cache.crop(0)
    assert cache.get_seq_length() == (CONTEXT if removes_none else 0)
    cache.layers[0].shorten(0)
    assert cache.get_seq_length() == 0
