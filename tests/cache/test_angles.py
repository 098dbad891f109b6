"""Angles are known for the latest entries, from any index on."""

from __future__ import annotations

import pytest
import torch

from pikvpress import PiKVCache, models
from pikvpress.cache.angles import Angles, rotation_at
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import SaliencyScheduler


def some(first, last):
    numbers = torch.arange(first, last, dtype=torch.float32)[None, :, None]
    return numbers, -numbers


def test_they_grow_and_are_forgotten():
    angles = Angles()
    assert angles.nbytes == 0
    angles.add(5, *some(5, 10))
    angles.add(10, *some(10, 12))
    angles.forget(7)
    assert (angles.first, angles.last, angles.nbytes) == (7, 12, 2 * 5 * 4)
    cos, sin = angles.between(8, 11, torch.device("cpu"))
    assert cos.flatten().tolist() == [8, 9, 10] and torch.equal(sin, -cos)
    angles.forget(100)
    assert angles.last == angles.first == 12


def test_they_begin_anew_after_a_gap():
    angles = Angles()
    angles.add(0, *some(0, 5))
    angles.add(20, *some(20, 22))
    assert (angles.first, angles.last) == (20, 22)


def test_crop():
    angles = Angles()
    angles.add(0, *some(0, 9))
    copy = angles.copied()
    angles.crop(4)
    assert (angles.last, copy.last) == (4, 9)
    angles.add(4, *some(4, 5))
    assert angles.between(3, 5, torch.device("cpu"))[0].flatten().tolist() == [3, 4]


def test_the_model_says_how_keys_are_rotated_if_the_cache_was_not_told(llama):
    places = torch.tensor([[3, 4, 9], [0, 1, 2]])
    module, like = models.attention_layers(llama)[0], torch.zeros(1, 2, 3, 16)
    for _ in range(2):  # found, then remembered
        found = rotation_at(module, like, places)
        torch.testing.assert_close(found, tuple(llama.model.rotary_emb(like, places[:1])), rtol=0, atol=0)
    with pytest.raises(ValueError, match="does not tell its cache how keys are rotated"):
        rotation_at(module, like, None)


def test_entries_are_valued_alike_whether_the_cache_was_told_or_the_model_asked(llama, ids, monkeypatch):
    def read():
        weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(0))
        cache = PiKVCache(window=0, scheduler=SaliencyScheduler(weights=weights), max_tokens=128)
        with torch.no_grad():
            llama(ids[:, :250], past_key_values=cache)
            llama(ids[:, 250:], past_key_values=cache)
        return [layer.keeper.records.ledger.stored_measures["saliency"] for layer in cache.layers]

    told, update = read(), PiKVCache.update
    monkeypatch.setattr(PiKVCache, "update", lambda self, keys, values, index, *told: update(self, keys, values, index))
    asked = read()
    assert not told[0].isnan().any()
    torch.testing.assert_close(asked, told, rtol=0, atol=0)
