"""A joined cache is an ordinary one."""

from __future__ import annotations

import copy

import pytest
import torch
from kvpress import AdaKVPress, KnormPress

from pikvpress import PiKVCache
from pikvpress.cache import joined_ids
from tests.cache.asking import ask, read


@pytest.fixture
def documents(ids):
    return [ids[:, :90], ids[:, 90:200]]


@pytest.fixture
def caches(llama, documents):
    return [read(llama, ids, PiKVCache("int8", "int4", window=16), AdaKVPress(KnormPress(0.4))) for ids in documents]


def test_files_join_like_caches_in_memory_and_the_result_can_be_saved(llama, documents, caches, question, tmp_path):
    for number, cache in enumerate(caches):
        cache.save(tmp_path / f"{number}.safetensors", input_ids=documents[number])
    loaded = [
        PiKVCache.load(tmp_path / f"{number}.safetensors", llama, input_ids=ids) for number, ids in enumerate(documents)
    ]
    joined, same = (PiKVCache.join(these, llama, documents) for these in (caches, loaded))
    joined.save(tmp_path / "joined.safetensors", llama, input_ids=joined_ids(documents))
    again = PiKVCache.load(tmp_path / "joined.safetensors", llama, input_ids=joined_ids(documents))
    wanted = ask(llama, question, copy.deepcopy(joined))
    assert torch.equal(ask(llama, question, same), wanted)
    assert torch.equal(ask(llama, question, again), wanted)


def test_generate_goes_on_and_answers_are_removed_again(llama, documents, caches, question):
    joined = PiKVCache.join(caches, llama, documents)
    ids = torch.cat([joined_ids(documents), question], dim=1)
    settings = {"max_new_tokens": 5, "do_sample": False}
    first = llama.generate(ids, past_key_values=joined, **settings)
    assert first.shape[1] == ids.shape[1] + 5
    joined.crop(200)
    assert torch.equal(llama.generate(ids, past_key_values=joined, **settings), first)
    joined.schedule("streaming_llm", max_tokens=400)
    assert torch.isfinite(ask(llama, question, joined, joined.get_seq_length())).all()


def test_a_joined_cache_can_be_joined_again(llama, documents, caches, ids):
    joined = PiKVCache.join(caches, llama, documents)
    third = read(llama, ids[:, 200:], PiKVCache())
    both = PiKVCache.join([joined, third], llama, [joined_ids(documents), ids[:, 200:]])
    assert both.get_seq_length() == ids.shape[1]
