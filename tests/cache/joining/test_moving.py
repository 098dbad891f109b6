"""Compressed entries at other positions."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import PiKVCache, models, rotary
from pikvpress.cache import codec
from pikvpress.cache.joining.moving import decoded, moved
from tests.cache.asking import read
from tests.conftest import make_tiny

OFFSET = 77


def rows(stretches, side):
    return [
        torch.cat([getattr(stretch, side).part(head) for stretch in stretches])
        for head in range(len(stretches[0].counts))
    ]


@pytest.mark.parametrize("name", ["llama", "phi4", "glm4", "qwen3", "smollm3"])
def test_keys_are_those_of_the_same_document_read_at_the_new_positions(name, ids):
    """In the last layers values depend on positions only through differences, so that they stay as they are."""
    model, there = make_tiny(name), DynamicCache()
    cache = read(model, ids[:, :90], PiKVCache())
    with torch.no_grad():
        model.model(ids[:, :90], past_key_values=there, position_ids=torch.arange(OFFSET, OFFSET + 90)[None])
    every = [torch.ones(90, dtype=torch.bool)] * 2
    with models.rotary_at_hand(model):
        for layer, wanted, module in zip(cache.layers, there.layers, models.attention_layers(model), strict=True):
            stretches = moved(decoded(layer.entries), every, module, OFFSET, 90)
            torch.testing.assert_close(torch.stack(rows(stretches, "keys")), wanted.keys[0], atol=5e-5, rtol=1e-4)
            torch.testing.assert_close(torch.stack(rows(stretches, "values")), wanted.values[0], atol=1e-5, rtol=1e-4)


LOSS = {"int8": 0.02, "int4": 0.15, "int2": 0.8, "rot4": 0.15, "rot2": 0.5, "rank8": 0.01}


@pytest.mark.parametrize("name", LOSS)
def test_codecs_stay_and_cost_one_more_encoding(name, llama, ids):
    cache = read(llama, ids[:, :200], PiKVCache(name, name, window=20))
    cache.settle()
    entries, module = cache.layers[1].entries, models.attention_layers(llama)[1]
    kept = [torch.arange(200) >= 3, torch.arange(200) >= 5]
    with models.rotary_at_hand(llama):
        before = decoded(entries)
        stretches = moved(before, kept, module, OFFSET, 200)
        assert [stretch.codecs[0][0] for stretch in stretches] == [codec(name), codec("exact")]
        assert [stretch.length for stretch in stretches] == [180, 20]
        assert [stretch.counts for stretch in stretches] == [(177, 175), (20, 20)]
        for head, (found, mask) in enumerate(zip(rows(stretches, "keys"), kept, strict=True)):
            held = torch.cat([part.keys[head] for part in before])[mask]
            wanted = rotary.moved(module, held[None, None], OFFSET)[0, 0]
            assert (found - wanted).norm() / wanted.norm() <= LOSS[name]


def test_lengths_say_of_how_many_tokens_entries_are(llama, ids):
    """A press that shortens all heads alike leaves fewer entries than there were tokens."""
    entries = read(llama, ids[:, :40], PiKVCache()).layers[0].entries
    module, every = models.attention_layers(llama)[0], [torch.ones(40, dtype=torch.bool)] * 2
    with models.rotary_at_hand(llama):
        assert [stretch.length for stretch in moved(decoded(entries), every, module, 5, 100)] == [100]
        assert [stretch.length for stretch in moved(decoded(entries), every, module, 5, 30)] == [30]
