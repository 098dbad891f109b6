"""Which entries belong to a document's first tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress.cache import codec
from pikvpress.cache.joining.documents import Documents
from pikvpress.cache.joining.first_tokens import belonging, first_keys
from tests.cache.asking import read


@pytest.fixture(scope="module")
def keys():
    """Return keys of 300 tokens with a common part; those of the first are unlike all others, as sinks' keys are."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(300, 64, generator=generator) + 2 * torch.randn(64, generator=generator)
    keys[0] *= -1
    return keys


@pytest.mark.parametrize("name", ["exact", "int8", "int4", "int3", "rot4", "rot3"])
@pytest.mark.parametrize("first", [[], [0], [0, 2, 3], [1, 5]])
def test_entries_are_recognised_behind_codecs_in_any_order(keys, name, first):
    kept = torch.tensor([*first, *range(10, 300, 5)])
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(1))
    held = codec(name).read_back(keys[kept[order]], is_keys=True)
    assert belonging(held, keys[:8]).tolist() == (kept[order] < 8).tolist()


def test_one_entry_alone_is_compared_with_the_length_of_the_key(keys):
    assert belonging(keys[:1], keys[:4]).tolist() == [True]
    assert belonging(-keys[:1], keys[:1]).tolist() == [False]


def test_nothing_belongs_to_nothing(keys):
    assert belonging(keys[:0], keys[:4]).tolist() == []
    assert belonging(keys[:3], keys[:0]).tolist() == [False] * 3


def test_first_keys_are_those_of_the_document_alone_and_the_head_is_read_once(llama, ids):
    documents = Documents((ids[:, :50], torch.cat([ids[:, :10], ids[:, 60:100]], 1), ids[:, :50]), head=10, seam=4)
    head = DynamicCache()
    for number in (1, 2):
        alone = read(llama, documents.ids[number], DynamicCache())
        with torch.no_grad():
            found = first_keys(llama, documents, number, head)
        assert head.get_seq_length() == 10
        for layer, keys in zip(alone.layers, found, strict=True):
            torch.testing.assert_close(keys, layer.keys[0, :, :14])
