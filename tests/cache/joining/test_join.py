"""Joining: equal to reading everything where everything is read, and to parts of the documents otherwise."""

from __future__ import annotations

import pytest
import torch
from kvpress import AdaKVPress, KnormPress
from transformers import DynamicCache

from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.cache import joined_ids
from tests.cache.asking import ask, read
from tests.conftest import make_tiny

LENGTHS = (60, 80, 50)


@pytest.fixture
def documents(ids):
    return list(ids[:, : sum(LENGTHS)].split(LENGTHS, dim=1))


def after(model, cache, question):
    return ask(model, question, cache, cache.get_seq_length())


@pytest.mark.parametrize("name", ["llama", "phi4", "glm4", "smollm3"])
@pytest.mark.parametrize("head", [0, 7])
def test_seams_as_long_as_documents_are_reading_everything(name, head, documents, question):
    model = make_tiny(name)
    documents = [torch.cat([documents[0][:, :head], ids], dim=1) for ids in documents]
    caches = [read(model, ids, PiKVCache()) for ids in documents]
    joined = PiKVCache.join(caches, model, documents, head=head, seam=1000)
    whole = read(model, joined_ids(documents, head=head), PiKVCache())
    assert joined.get_seq_length() == whole.get_seq_length() == sum(LENGTHS) + head
    torch.testing.assert_close(after(model, joined, question), after(model, whole, question))


def test_what_is_read_anew_sees_the_documents_before(llama, documents):
    """The first tokens of the second document are those of reading the first two, whatever the second one held."""
    caches = [read(llama, ids, PiKVCache()) for ids in documents]
    joined = PiKVCache.join(caches, llama, documents, seam=4)
    whole = read(llama, torch.cat(documents, dim=1), DynamicCache())
    for layer, wanted in zip(joined.layers, whole.layers, strict=True):
        lengths = [stretch.length for stretch in layer.entries.compressed.stretches]
        assert lengths == [60, 4, 76, 4, 46]
        anew = layer.entries.compressed.stretches[1]
        for head in range(2):
            torch.testing.assert_close(anew.keys.part(head), wanted.keys[0, head, 60:64], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(anew.values.part(head), wanted.values[0, head, 60:64], atol=1e-5, rtol=1e-4)


class Kept:
    """A press that remembers which entries another one has masked, by layer."""

    def __init__(self, model, ids, press):
        cache = read(model, ids, DynamicCache(), press)
        self.layers = []
        for layer, module in zip(cache.layers, models.attention_layers(model), strict=True):
            kept = torch.ones(layer.keys.shape[1:3], dtype=torch.bool)
            if module.masked_key_indices is not None:
                kept[module.masked_key_indices[1:]] = False
            module.masked_key_indices = None
            self.layers.append(kept)


@pytest.mark.parametrize("codec", ["exact", "int8", "int4", "int2", "rot4"])
def test_entries_of_first_tokens_are_left_out_of_heads_of_any_length(codec, llama, documents):
    press = AdaKVPress(KnormPress(0.4))
    caches = [read(llama, ids, PiKVCache(codec, codec, window=16), press) for ids in documents]
    kept = [Kept(llama, ids, press).layers for ids in documents]
    joined = PiKVCache.join(caches, llama, documents, seam=6)
    for index, layer in enumerate(joined.layers):
        wanted = kept[0][index].sum(-1) + sum(6 + of[index][:, 6:].sum(-1) for of in kept[1:])
        assert layer.counts() == [wanted.tolist()]
        names = {one.name for stretch in layer.entries.compressed.stretches for one in stretch.keys.codecs}
        assert names == {codec, "exact"}


def test_sources_do_not_change_and_presses_of_one_length_can_be_joined(llama, documents, question):
    caches = [read(llama, ids, PiKVCache(), KnormPress(0.5)) for ids in documents]
    before = [ask(llama, question, read(llama, ids, PiKVCache(), KnormPress(0.5)), ids.shape[1]) for ids in documents]
    joined = PiKVCache.join(caches, llama, documents, seam=3)
    assert joined.get_seq_length() == sum(LENGTHS)
    assert joined.layers[0].counts()[0][0] in range(30 + 3 + 37 + 3 + 22, 30 + 3 + 40 + 3 + 25 + 1)
    for cache, ids, wanted in zip(caches, documents, before, strict=True):
        assert torch.equal(ask(llama, question, cache, ids.shape[1]), wanted)


@pytest.mark.parametrize("head", [0, 7])
def test_without_seams_documents_keep_their_first_tokens_and_one_head(head, llama, documents):
    documents = [torch.cat([documents[0][:, :head], ids], dim=1) for ids in documents]
    caches = [read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.2))) for ids in documents]
    joined = PiKVCache.join(caches, llama, documents, head=head, seam=0)
    kept = [Kept(llama, ids, AdaKVPress(KnormPress(0.2))).layers for ids in documents]
    for index, layer in enumerate(joined.layers):
        wanted = kept[0][index].sum(-1) + sum(of[index][:, head:].sum(-1) for of in kept[1:])
        assert layer.counts() == [wanted.tolist()]


def test_codecs_chosen_by_head_are_joined_and_kept_for_later_entries(llama, documents):
    caches = [read(llama, ids, PiKVCache(), PiKVPress(compression_ratio=0.6)) for ids in documents]
    joined = PiKVCache.join(caches, llama, documents)
    assert sum(LENGTHS) == joined.get_seq_length()
    assert [layer._following for layer in joined.layers] == [layer._following for layer in caches[0].layers]
    assert joined.nbytes < sum(cache.nbytes for cache in caches) + 2 * 8 * 2 * 2 * 2 * 16 * 4 + 4096
