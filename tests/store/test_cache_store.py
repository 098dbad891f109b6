"""A store keeps files by key, and a known context costs no reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kvpress import KnormPress

from pikvpress import PiKVCache
from pikvpress.store import CacheStore, FolderStore
from tests.store.cases import counted, text


class FewStore(CacheStore):
    """A store that holds nothing but the latest context: what a subclass has to say."""

    def __init__(self, folder: Path):
        self.path, self.held = folder / "latest", None

    def put(self, key, save, nbytes):
        save(self.path)
        self.held = key

    def find(self, keys, least):
        if (
            self.held is not None
            and least <= self.held.length <= keys.length
            and keys.at(self.held.length) == self.held
        ):
            yield self.held, self.path

    def remove(self, key):
        found, self.held = self.held == key, None
        return found


@torch.no_grad()
@pytest.mark.parametrize("make", [FewStore, FolderStore])
def test_any_store_serves(make, llama, tmp_path):
    store, caches = make(tmp_path), [PiKVCache(), PiKVCache()]
    for cache, expected in zip(caches, ([209], []), strict=True):
        with counted(llama) as read, store.reading(llama, KnormPress(0.5)) as reading:
            llama.model(text(), past_key_values=cache)
        assert read == expected and reading.known == 209 - sum(expected)
    assert caches[0].nbytes == caches[1].nbytes


def test_the_press_is_on_the_model_only_inside(llama, tmp_path):
    hooks = llama.model.layers[0].self_attn._forward_hooks
    for enter, inside in ((FewStore(tmp_path).reading, 1), (FewStore(tmp_path).beside, 0)):
        with enter(llama, KnormPress(0.5)):
            assert len(hooks) == inside
        assert not hooks and "forward" not in vars(llama.model) and not llama.model._forward_hooks
