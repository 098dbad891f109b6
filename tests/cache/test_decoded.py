"""Decoded entries are those that attention reads."""

from __future__ import annotations

import pytest
import torch

from pikvpress import PiKVCache, PiKVPress
from pikvpress.cache.decoded import decoded
from pikvpress.gates import save_gates
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama")


def test_a_cache_without_a_press_is_returned_as_it_is(model, ids):
    cache = PiKVCache()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    keys, values, missing = decoded(cache.layers[1])
    assert missing is None
    assert torch.equal(keys, cache.layers[1].keys) and torch.equal(values, cache.layers[1].values)


def test_heads_are_padded_to_the_longest_and_padding_is_marked(model, ids, tmp_path):
    save_gates(tmp_path / "gates.safetensors", uneven_gates(model))
    cache = PiKVCache()
    with torch.no_grad(), PiKVPress(0.75, gates=tmp_path / "gates.safetensors")(model):
        model(ids, past_key_values=cache)
    cache.settle()
    before = cache.nbytes
    assert any(len(set(layer.counts()[0])) > 1 for layer in cache.layers), "heads are of unequal length"
    for layer in cache.layers:
        (counts,) = layer.counts()
        keys, values, missing = decoded(layer)
        assert keys.shape == values.shape == (1, len(counts), max(counts), keys.shape[3])
        assert missing is not None and (~missing).sum(dim=1).tolist() == counts
        assert not keys[0][missing].any() and not values[0][missing].any()
        for head in range(len(counts)):
            stored = torch.cat([part.keys.part(head) for part in layer.entries.compressed.stretches])
            assert torch.equal(keys[0, head, : counts[head]], stored)
    assert cache.nbytes == before
