"""kvpress's pipeline reads a stored context no second time, and answers the same."""

from __future__ import annotations

import pytest
import torch
from kvpress import KeyRerotationPress, KnormPress, KVzipPress
from transformers import pipeline

from pikvpress import PiKVCache, PiKVPress
from pikvpress.store import FolderStore
from tests.evaluation.tiny_tokenizer import make_tokenizer
from tests.store.cases import counted

WORDS = [f"word{number}" for number in range(200)]
CONTEXT = " ".join(WORDS[(7 * place) % 200] for place in range(150))
QUESTIONS = ["word1 word2 ?", "word150 word3 word9 ?"]


@pytest.fixture
def pipe(llama):
    llama.generation_config.eos_token_id = None
    return pipeline("kv-press-text-generation", model=llama, tokenizer=make_tokenizer(vocabulary=WORDS))


@pytest.mark.parametrize(
    "press",
    [None, PiKVPress(0.8, gates=None), KnormPress(0.5), KeyRerotationPress(KnormPress(0.5))],
    ids=lambda press: type(press).__name__,
)
def test_a_known_context_costs_no_prefill(press, pipe, llama, tmp_path):
    store = FolderStore(tmp_path)
    settings = {"questions": QUESTIONS, "press": press, "max_new_tokens": 5}
    with counted(llama) as plain:
        expected = pipe(CONTEXT, cache=PiKVCache(), **settings)
    with counted(llama) as first:
        assert pipe(CONTEXT, store=store, **settings) == expected
    with counted(llama) as second:
        assert pipe(CONTEXT, store=store, **settings) == expected
    assert first == plain and second == plain[1:] and plain[0] > 150
    cache = PiKVCache()
    pipe(CONTEXT, store=store, cache=cache, question=QUESTIONS[0], press=press, max_new_tokens=1)
    assert cache.get_seq_length() > 0 and len(store.contexts()) == 1


def test_in_inference_mode(pipe, tmp_path):
    with torch.inference_mode():
        store = FolderStore(tmp_path)
        answers = [pipe(CONTEXT, question=QUESTIONS[0], store=store, max_new_tokens=3) for _ in range(2)]
    assert answers[0] == answers[1]


def test_what_does_not_fit_is_refused(pipe, tmp_path):
    with pytest.raises(TypeError, match=r"store must be a CacheStore, such as FolderStore\(path\), got str"):
        pipe(CONTEXT, question="?", store=str(tmp_path))
    with pytest.raises(ValueError, match="KVzipPress is not finished with a cache"):
        pipe(CONTEXT, question="?", store=FolderStore(tmp_path), press=KVzipPress(0.5))


def test_without_a_store_the_pipeline_is_kvpress_s(pipe):
    assert pipe(CONTEXT, question=QUESTIONS[0], max_new_tokens=3)["answer"]
