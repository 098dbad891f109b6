"""A store keeps files by key, and a known context costs no reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kvpress import AdaKVPress, KnormPress

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


def test_documents_are_joined_from_a_store_and_read_only_if_they_are_new(llama, tmp_path):
    store, press = FolderStore(tmp_path), AdaKVPress(KnormPress(0.5))
    documents = [text(length=60, seed=seed) for seed in (1, 2, 3)]
    store.join(llama, documents[:2], press, make=lambda: PiKVCache("int8", "int8", window=8))
    with counted(llama) as read:
        joined = store.join(llama, documents, press, make=lambda: PiKVCache("int8", "int8", window=8), seam=4)
    assert read == [60, 4, 4, 4, 4]  # the third document, and each seam alone and behind the documents before
    alone = []
    for ids in documents:
        alone.append(PiKVCache("int8", "int8", window=8))
        with torch.no_grad(), press(llama):
            llama.model(ids, past_key_values=alone[-1])
    wanted = PiKVCache.join(alone, llama, documents, seam=4)
    assert joined.get_seq_length() == 180 and joined.nbytes == wanted.nbytes
    for layer, other in zip(joined.layers, wanted.layers, strict=True):
        for one, two in zip(layer.entries.compressed.stretches, other.entries.compressed.stretches, strict=True):
            assert torch.equal(one.keys.buffer, two.keys.buffer)
