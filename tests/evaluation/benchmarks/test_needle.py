"""The needle in a haystack: its place, the length of the text, and how answers are judged."""

from __future__ import annotations

import re

import pytest

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.needle import DEPTHS, Needle, nearest_boundary
from evaluation.benchmarks.ruler.essay_haystack import essay_sentences
from evaluation.prompts import total_tokens
from tests.evaluation.tiny_tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()


def make(length: int | None = 1024, samples: int = 2, seed: int = 0, tasks=None):
    return Needle().rows(Request(TOKENIZER, length, samples, seed, tasks=tasks))


@pytest.mark.parametrize("length", [500, 1024, 4096])
def test_rows_fit_their_length_and_use_it(length):
    rows = make(length)
    assert [row.task for row in rows] == [f"depth_{percent:03d}" for percent in range(0, 101, 10) for _ in range(2)]
    assert all(0.98 * length < total_tokens(TOKENIZER, row) <= length for row in rows)


def test_the_needle_stands_at_its_depth_between_sentences():
    longest = max(len(sentence.split()) for sentence in essay_sentences())
    for row in make(4096):
        text = row.context.split("\n\n", 1)[1]
        before, after = text.split(f"The secret number of the lighthouse is {row.answer}.")
        words = len(before.split()), len(after.split())
        assert abs(words[0] - DEPTHS[row.task] / 100 * sum(words)) <= longest / 2
        if words[0] and words[1]:
            # The text may begin and end anywhere, but the sentence before the needle is whole.
            assert any(before.rstrip().endswith(sentence) for sentence in essay_sentences())
        if row.task == "depth_000":
            assert not before
        if row.task == "depth_100":
            assert not after


def test_the_nearest_boundary():
    text = ["one two", "three", "four five six seven"]
    assert [nearest_boundary(text, percent) for percent in (0, 10, 20, 40, 70, 75, 100)] == [0, 0, 1, 2, 2, 3, 3]


def test_numbers_and_texts_differ_and_depend_on_seed_and_index_only():
    rows = make(samples=2)
    assert len({row.answer for row in rows}) == len({row.context[:200] for row in rows}) == 22
    assert all(re.fullmatch(r"\d{7}", row.answer) and row.context.count(row.answer) == 1 for row in rows)
    assert rows == make(samples=2)
    assert rows[0] == make(samples=1)[0]
    assert {row.answer for row in rows}.isdisjoint(row.answer for row in make(samples=2, seed=1))


def test_one_depth_is_asked_for():
    assert make(tasks=("depth_050",)) == [row for row in make() if row.task == "depth_050"]


def test_score_and_metrics():
    rows = make(tasks=("depth_000", "depth_100"))
    predictions = [f" {rows[0].answer}.", "1", rows[2].answer, rows[3].answer]
    assert [Needle().score(row, said) for row, said in zip(rows, predictions, strict=True)] == [
        {"found": 100.0},
        {"found": 0.0},
        {"found": 100.0},
        {"found": 100.0},
    ]
    assert Needle().metrics(rows, predictions) == {"depth_000": 50.0, "depth_100": 100.0}


def test_bad_requests():
    with pytest.raises(ValueError, match="pass one in tokens"):
        make(None)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make(samples=0)
    with pytest.raises(ValueError, match="unknown needle task 'depth_055'"):
        make(tasks=("depth_055",))
    with pytest.raises(ValueError, match=r"too short .* at least \d+"):
        make(40)
