"""A needle at every depth."""

from __future__ import annotations

import json

import pytest

from evaluation.benchmarks.needle_in_haystack import DEPTHS, NEEDLE, NeedleInHaystack
from tests.evaluation.benchmarks.sets import (
    WORDS,
    record,
    request,
    row,
    write,
)


@pytest.fixture
def haystack(tmp_path):
    needle = "The best thing to do in San Francisco is eat a sandwich"
    values = record(context=" ".join(WORDS), needle=needle, question="Look here now")
    write(tmp_path / "data" / "test.parquet", values)
    return tmp_path


def test_needle_is_at_every_depth(word_tokenizer, haystack):
    rows = NeedleInHaystack().rows(request(word_tokenizer, haystack, length=411))
    needle = rows[0].answer
    room = 411 - len(needle.split()) - 150
    assert [row.extras for row in rows] == [{"needle": needle, "needle_depth": depth} for depth in DEPTHS]
    for made in rows:
        before, after = (part.split() for part in made.context.split(needle))
        hay = before[8:] + after[:-1]  # without the words of the wrapper
        assert hay == WORDS[:room]
        assert len(before[8:]) == room * made.extras["needle_depth"] // 100
        assert (made.question, made.answer_prefix, made.max_new_tokens) == ("Look here now", "A:", 8)


def test_needle_leaves_room_for_long_templates(word_tokenizer, haystack):
    write(haystack / "data" / "test.parquet", record(context=" ".join(WORDS), needle=NEEDLE, max_new_tokens=500))
    rows = NeedleInHaystack().rows(request(word_tokenizer, haystack, length=1000))
    tokens = [len(word_tokenizer(row.context + row.question)["input_ids"]) + row.max_new_tokens for row in rows]
    assert max(tokens) <= 1000


def test_needle_takes_the_essays_by_default(monkeypatch, word_tokenizer):
    monkeypatch.setattr("evaluation.benchmarks.needle_in_haystack.essays", lambda: " ".join(WORDS))
    rows = NeedleInHaystack().rows(request(word_tokenizer, None, length=400))
    assert len(rows) == 11
    assert all(NEEDLE in row.context and row.answer == NEEDLE for row in rows)


def test_needle_says_which_lengths_there_are(word_tokenizer, haystack):
    benchmark = NeedleInHaystack()
    with pytest.raises(ValueError, match="needs a length"):
        benchmark.rows(request(word_tokenizer, haystack))
    with pytest.raises(ValueError, match=r"162 tokens is too short .* more than 162"):
        benchmark.rows(request(word_tokenizer, haystack, length=162))
    assert len(benchmark.rows(request(word_tokenizer, haystack, length=3162))) == 11
    with pytest.raises(ValueError, match="has 3000 tokens, 3001 are needed: use a length of at most 3162"):
        benchmark.rows(request(word_tokenizer, haystack, length=3163))
    with pytest.raises(FileNotFoundError, match="hf download alessiodevoto/paul_graham_essays"):
        benchmark.rows(request(word_tokenizer, haystack / "none", length=400))


def test_needle_rouge():
    cases = [(row("needle_in_haystack", "a b c d", needle="a b c d"), text) for text in ("a b x", "")]
    rows, predictions = zip(*cases, strict=True)
    found, nothing = NeedleInHaystack().metrics(rows, predictions)
    # The needle is the hypothesis: recall refers to the prediction's words, precision to the needle's.
    assert found["rouge-l"] == pytest.approx({"r": 2 / 3, "p": 2 / 4, "f": 4 / 7})
    assert found["rouge-2"] == pytest.approx({"r": 1 / 2, "p": 1 / 3, "f": 2 / 5})
    assert nothing == {name: {"r": 0.0, "p": 0.0, "f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    assert NeedleInHaystack().score(*cases[0])["rouge-l"] == pytest.approx(400 / 7)
    json.dumps([found, nothing])
