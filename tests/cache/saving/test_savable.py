"""Saving and schedules."""

from __future__ import annotations

import pytest
import torch

from pikvpress import PiKVCache
from tests.cache.saving.cases import filled, ids, read


def test_a_scheduled_cache_is_refused_and_a_loaded_one_can_be_scheduled(llama, tmp_path):
    cache, path = filled(llama, "ragged", 90), tmp_path / "cache.safetensors"
    cache.schedule("streaming_llm", ratio=0.5)
    with pytest.raises(ValueError, match=r"cannot be saved yet: call cache\.schedule\(None\) first"):
        cache.save(path)
    assert not path.exists() and cache.current_schedule is not None
    plain = filled(llama, "ragged", 90)
    plain.save(path)
    loaded = PiKVCache.load(path, llama)
    for one in (plain, loaded):
        one.schedule("streaming_llm", ratio=0.5)
    for tokens in (ids()[:, :1], ids()[:, 10:80]):
        assert torch.equal(read(llama, loaded, tokens), read(llama, plain, tokens))
    assert loaded.nbytes == plain.nbytes and str(loaded) == str(plain)
