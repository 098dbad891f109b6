"""The continuation benchmark: texts go on as they are, and facts are stated before they are asked for."""

from __future__ import annotations

import random

import pytest

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.continuation import Continuation
from evaluation.benchmarks.continuation.benchmark import measured
from evaluation.benchmarks.continuation.samples import FACTS, SOURCES, TASKS, make_row
from evaluation.benchmarks.fidelity.comparison import Comparison
from evaluation.prompts import encode


@pytest.fixture(scope="module")
def rows(tokenizer):
    return Continuation().rows(Request(tokenizer, length=1024, samples=2, seed=3))


def tokens(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def test_every_task_has_its_samples_and_fills_its_length(rows, tokenizer):
    assert [row.task for row in rows] == [task for task in TASKS for _ in range(2)]
    for row in rows:
        context, question = encode(tokenizer, row)
        after = len(question) + tokens(tokenizer, row.answer)
        assert 230 <= len(context) <= 256 and 740 <= after <= 780, row.task
        assert len(context) + after <= 1024
        assert not row.chat


@pytest.mark.parametrize("task", ["prose", "code", "dialogue"])
def test_texts_go_on_as_they_are(rows, task):
    for row in (row for row in rows if row.task == task):
        assert row.question == "" and row.context[20:] + row.answer[:-5] in SOURCES[task]()


def test_facts_are_stated_early_in_the_continuation_and_asked_for_at_its_end(rows):
    for row in (row for row in rows if row.task == "recall"):
        lines = row.answer.strip().splitlines()
        asked, answers = lines[::3], lines[1::3]
        assert len(asked) == len(answers) == FACTS and "special number" not in row.context
        for question, answer in zip(asked, answers, strict=True):
            assert question.removeprefix("What is the ").rstrip("?") in answer
            assert row.question.count(answer) == 1
            assert row.question.index(answer) < 0.45 * len(row.question)


def test_a_row_depends_on_its_own_number_alone(rows, tokenizer):
    assert Continuation().rows(Request(tokenizer, 1024, 1, 3))[0] == rows[0]
    (row,) = Continuation().rows(Request(tokenizer, 600, 1, 3, tasks=("code",), continued=300))
    assert 290 <= tokens(tokenizer, row.answer) <= 305


@pytest.mark.parametrize(("task", "length", "continued"), [("prose", 400, 380), ("recall", 600, 400)])
def test_too_short_a_text_is_refused(task, length, continued, tokenizer):
    request = Request(tokenizer, length, 1, 0, continued=continued)
    with pytest.raises(ValueError, match=f"is too short for task '{task}' of continuation: use prompts of"):
        make_row(task, request, random.Random(0))


def test_quarters_of_the_measured_part():
    measures = measured(Comparison((1.0, 3.0, 4.0, 6.0, 0.0, 2.0, 8.0), 50.0, 0.1), speed=12.5)
    assert measures["kl"] == pytest.approx(24 / 7) and measures["speed"] == 12.5 and measures["top1"] == 50
    assert [measures[f"kl_{part}"] for part in ("first", "second", "third", "last")] == [1.0, 3.5, 3.0, 5.0]
    declared = {measure.name for measure in Continuation.measures if not measure.pooled}
    assert declared == set(measures)
