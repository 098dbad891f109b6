"""LooGLE: clozes and texts."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.loogle import LooGLE, overlap
from tests.evaluation.benchmarks.sets import (
    row,
)


def test_loogle_clozes():
    answer = '{"<mask-0>": "Ann Lee", "<mask-1>": "Bob"}'
    predictions = ["{'<mask-0>': 'Ann', '<mask-1>': 'Bob'}", "no dictionary", "__import__('os').abort()"]
    rows = [row("shortdep_cloze", answer)] * 3
    # Exact: 1 of 2 masks, and 0 of 1 for each answer that is not a dictionary; partial: 2 of 2, and 0 of 2 twice.
    expected = {"shortdep_cloze": {"exact_match": 0.25, "partial_match": 0.3333}}
    assert LooGLE().metrics(rows, predictions) == expected
    assert [LooGLE().score(*case)["score"] for case in zip(rows, predictions, strict=True)] == [50.0, 0.0, 0.0]
    assert LooGLE().metrics(rows[:1], ["{'<mask-0>': 7}"])["shortdep_cloze"] == {"exact_match": 0, "partial_match": 0}
    with pytest.raises(ValueError, match="must be a dictionary of masks"):
        LooGLE().score(row("shortdep_cloze", "Bob"), "Bob")


def test_loogle_texts(monkeypatch):
    monkeypatch.setattr(overlap, "load_wordnet", lambda: SimpleNamespace(synsets=lambda word: []))
    recall = torch.tensor([0.5, 0.7])
    score = SimpleNamespace(score=lambda candidates, references, lang: (None, recall, None))
    monkeypatch.setattr(overlap, "extra", lambda name: score if name == "bert_score" else extra(name))
    rows = [row("longdep_qa", "a b c d e"), row("longdep_qa", "x y")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (scores,) = LooGLE().metrics(rows, ["a b c d", ""]).values()
    brevity = math.exp(1 - 5 / 4)
    assert list(scores) == ["bleu1", "bleu4", "rouge-1", "rouge-2", "rouge-l", "meteor", "bert"]
    assert scores["bleu1"] == scores["bleu4"] == pytest.approx(brevity / 2)
    assert (scores["rouge-1"], scores["rouge-2"], scores["rouge-l"]) == pytest.approx((4 / 5 / 2, 3 / 4 / 2, 4 / 5 / 2))
    # Precision 1, recall 4/5, weighted 9 to 1; the number of chunks depends on hashing, see `meteor`.
    penalties = [0.5 * (chunks / 4) ** 3 for chunks in (1, 2, 3, 4)]
    assert any(scores["meteor"] == pytest.approx(0.8 / 0.98 * (1 - penalty) / 2) for penalty in penalties)
    assert scores["bert"] == pytest.approx(0.6)
    assert LooGLE().score(rows[0], "a b c d") == {"score": pytest.approx(80)}


def test_loogle_says_how_to_get_models(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    def missing():
        raise LookupError

    monkeypatch.setattr(overlap, "extra", lambda name: SimpleNamespace(score=fail))
    with pytest.raises(FileNotFoundError, match="hf download FacebookAI/roberta-large"):
        overlap.bert(["a"], ["b"])
    downloads = []
    nltk = SimpleNamespace(
        wordnet=SimpleNamespace(ensure_loaded=missing), download=lambda *args, **kwargs: downloads.append(args)
    )
    monkeypatch.setattr(overlap, "extra", lambda name: nltk)
    with pytest.raises(FileNotFoundError, match=r"nltk\.downloader wordnet"):
        overlap.load_wordnet()
    assert downloads == [("wordnet",)]
