"""What masks and codecs do to a layer, and that measuring a layer has no side effects."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from kvpress import AdaKVPress, KnormPress, KVComposePress, ThinKPress

from pikvpress import PiKVCache, models
from pikvpress.cache import codec
from tests.cache.asking import CONTEXT, ask, read


@torch.no_grad()
def test_padding_is_not_held(llama, context):
    both = torch.cat([context[:, :50], context[:, 50:100]])
    mask = torch.ones_like(both)
    mask[1, :20] = 0
    cache = PiKVCache("int8", "int8", window=8)
    llama(both, attention_mask=mask, past_key_values=cache)
    assert cache.layers[0].counts() == [[50, 50], [30, 30]]


@torch.no_grad()
def test_what_is_padded_is_not_packed_until_it_is_cropped(llama, context):
    cache = read(llama, context, PiKVCache("int4", "int4", window=0))
    layer, more = cache.layers[0], context[:, :63]
    seen = torch.ones(1, CONTEXT + 63, dtype=torch.long)
    seen[:, CONTEXT : CONTEXT + 4] = 0
    llama(input_ids=more, past_key_values=cache, attention_mask=seen)
    for _ in range(3):
        seen = torch.nn.functional.pad(seen, (0, 1), value=1)
        llama(input_ids=more[:, :1], past_key_values=cache, attention_mask=seen)
    assert layer.entries.compressed.decoded is None and layer.entries.tail.keys.shape[2] == 66
    cache.crop(CONTEXT)
    llama(input_ids=more, past_key_values=cache)
    llama(input_ids=more[:, :1], past_key_values=cache)
    assert layer.entries.compressed.decoded is not None and layer.entries.tail.keys.shape[2] == 0


def test_packing_by_hand(llama, context, question):
    cache = read(llama, context, PiKVCache())
    cache.pack("int8", "int4", window=4)
    again = read(llama, context, PiKVCache("int8", "int4", window=4))
    assert torch.equal(ask(llama, question, cache), ask(llama, question, again))


MEASURES = {
    "nbytes": lambda cache: cache.nbytes,
    "counts": lambda cache: [layer.counts() for layer in cache.layers],
    "codec names": lambda cache: [layer.codec_names() for layer in cache.layers],
    "table": str,
    "copy": lambda cache: str(deepcopy(cache)),
    "bytes of a copy": lambda cache: deepcopy(cache).nbytes,
    "file": lambda cache: str(pickle.loads(pickle.dumps(cache))),
}


@pytest.mark.parametrize("make", [PiKVCache, lambda: PiKVCache("int4", "rank4+int2", window=16)])
@pytest.mark.parametrize("press", [None, AdaKVPress(KnormPress(0.5)), ThinKPress(key_channel_compression_ratio=0.5)])
def test_measuring_tells_what_settling_leaves_and_changes_nothing(make, press, llama, context):
    cache = read(llama, context, make(), press)
    module, last = models.attention_layers(llama)[-1], cache.layers[-1]
    mask, entries = getattr(module, "masked_key_indices", None), last.entries
    told = {name: measure(cache) for name, measure in MEASURES.items()}
    assert last.entries is entries and not entries.are_compressed
    assert getattr(module, "masked_key_indices", None) is mask
    cache.settle()
    assert last.entries.are_compressed == (cache.packs or mask is not None)
    assert {name: measure(cache) for name, measure in MEASURES.items()} == told
    assert getattr(module, "masked_key_indices", None) is None


def test_presses_that_mask_once_the_model_is_done_are_measured_too(llama, context):
    """KVCompose does so on exit, when nothing reads the cache any more."""
    cache = read(llama, context, PiKVCache(), KVComposePress(structured=False, compression_ratio=0.5))
    told = cache.nbytes, [layer.counts() for layer in cache.layers]
    assert not any(layer.entries.are_compressed for layer in cache.layers)
    cache.settle()
    assert all(layer.entries.are_compressed for layer in cache.layers)
    assert told == (cache.nbytes, [layer.counts() for layer in cache.layers])


def test_a_mask_that_comes_too_late_is_refused_once_and_forgotten(llama, context, question):
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    expected = ask(llama, question, cache)
    cache.crop(CONTEXT)
    held, module = cache.nbytes, models.attention_layers(llama)[0]
    module.masked_key_indices = tuple(torch.tensor([0]) for _ in range(3))
    assert cache.nbytes == held and module.masked_key_indices is not None
    with pytest.raises(ValueError, match="already compressed, which is too late"):
        cache.settle()
    assert module.masked_key_indices is None and torch.equal(ask(llama, question, cache), expected)


@torch.no_grad()
def test_other_values_can_be_packed_than_those_held(llama, context):
    cache = PiKVCache()
    llama(input_ids=context, past_key_values=cache)
    layer, exact = cache.layers[0], [codec("exact")] * 2
    values = torch.randn_like(layer.values)
    layer.pack(torch.ones(layer.keys.shape[:3], dtype=torch.bool), exact, exact, window=0, values=values)
    for head in range(2):
        assert torch.equal(layer.entries.compressed.context[0].values.part(head), values[0, head])
