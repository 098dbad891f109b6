"""Saving and schedules."""

from __future__ import annotations

import copy

import pytest
import torch

from pikvpress import PiKVCache
from tests.cache.saving.cases import filled, ids, read


def test_a_loaded_cache_can_be_scheduled(llama, tmp_path):
    path = tmp_path / "cache.safetensors"
    plain = filled(llama, "ragged", 90)
    plain.save(path)
    loaded = PiKVCache.load(path, llama)
    for one in (plain, loaded):
        one.schedule("streaming_llm", ratio=0.5)
    for tokens in (ids()[:, :1], ids()[:, 10:80]):
        assert torch.equal(read(llama, loaded, tokens), read(llama, plain, tokens))
    assert loaded.nbytes == plain.nbytes and str(loaded) == str(plain)


@pytest.mark.parametrize(
    "change", [{"scheduler": "lru", "ratio": 0.5}, {"scheduler": None}, {"scheduler": "quest", "max_tokens": 150}]
)
def test_the_schedule_of_a_loaded_cache_can_be_changed(llama, tmp_path, change):
    path, plain = tmp_path / "cache.safetensors", filled(llama, "h2o", 90)
    plain.save(path)
    loaded = PiKVCache.load(path, llama)
    for one in (plain, loaded):
        one.schedule(**change)
    for tokens in (ids()[:, :1], ids()[:, 10:80], ids()[:, 90:91]):
        assert torch.equal(read(llama, loaded, tokens), read(llama, plain, tokens))
    assert loaded.nbytes == plain.nbytes and loaded.history.steps == plain.history.steps


def test_a_state_moves_from_one_cache_to_another(llama):
    cache, other = filled(llama, "h2o", 90), PiKVCache("int4")
    expected = read(llama, copy.deepcopy(cache), ids()[:, :5])
    other.take(cache.state)
    assert other.nbytes == cache.nbytes and other.current_schedule is cache.current_schedule
    assert torch.equal(read(llama, other, ids()[:, :5]), expected)
