"""The fidelity benchmark: its samples contain what they ask about, and its figures match their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.fidelity import Fidelity
from evaluation.benchmarks.fidelity.comparison import compare
from evaluation.benchmarks.fidelity.samples import CONTINUED, TASKS, total
from evaluation.benchmarks.fidelity.summary import summarise
from evaluation.texts import essays, library, manual, scripture


@pytest.fixture(scope="module")
def request_(tokenizer):
    return Request(tokenizer, length=512, samples=2, seed=5)


@pytest.fixture(scope="module")
def rows(request_):
    return Fidelity().rows(request_)


def test_every_task_has_its_samples_and_fills_its_length(rows, request_):
    assert [row.task for row in rows] == [task for task in TASKS for _ in range(2)]
    for row in rows:
        assert 480 <= total(request_, row) <= 512, row.task
        assert row.chat == (row.task not in ("prose", "code"))


@pytest.mark.parametrize(("task", "planted"), [("needle", 1), ("multi_key", 4), ("multi_value", 3)])
def test_what_is_asked_for_is_planted(rows, task, planted):
    for row in (row for row in rows if row.task == task):
        name = row.question.rstrip("?").split()[-1]
        assert row.context.count("The special number of the ") == planted
        numbers = row.answer.rstrip(".").split(" is " if task != "multi_value" else " are ")[1].split(", ")
        assert len(numbers) == (3 if task == "multi_value" else 1)
        for number in numbers:
            assert row.context.count(f"The special number of the {name} is {number}.") == 1


def test_pairs_are_in_the_context_and_not_last(rows):
    for row in (row for row in rows if row.task == "key_value"):
        key = row.question.split(" of ")[1].rstrip("?")
        assert row.answer.startswith(f"{key}: ") and f"{row.answer}\n" in row.context


@pytest.mark.parametrize(("task", "text"), [("prose", manual()), ("code", library())])
def test_texts_are_continued_as_they_are(rows, task, text, tokenizer):
    for row in (row for row in rows if row.task == task):
        assert row.context[20:] + row.answer[:-5] in text
        assert len(tokenizer(row.answer, add_special_tokens=False).input_ids) == CONTINUED


@pytest.mark.parametrize(("domain", "text"), [("essays", essays()), ("scripture", scripture())])
def test_other_domains_are_there_by_name(domain, text, request_, tokenizer):
    tasks = tuple(f"{domain}_{name}" for name in ("needle", "multi_value", "prose"))
    made = Fidelity().rows(replace(request_, tasks=tasks, samples=1))
    assert [row.task for row in made] == list(tasks)
    for row in made:
        assert row.context[-60:] in text and 480 <= total(request_, row) <= 512
    assert made[2].context[-60:] + made[2].answer in text


def test_samples_repeat_by_seed_whatever_their_number(rows, request_):
    one = Fidelity().rows(replace(request_, samples=1, tasks=("needle", "code")))
    assert one == [row for row in rows if row.task in ("needle", "code")][::2]
    other = Fidelity().rows(replace(request_, samples=1, seed=6, tasks=("needle",)))
    assert other[0] != one[0] and other[0].task == "needle"


def test_bad_requests(request_):
    with pytest.raises(ValueError, match="--length 1024"):
        Fidelity().rows(replace(request_, length=None))
    with pytest.raises(ValueError, match="too short for task 'needle'"):
        Fidelity().rows(replace(request_, length=40))
    with pytest.raises(ValueError, match="did you mean needle"):
        Fidelity().rows(replace(request_, tasks=("needel",)))


def test_the_divergence_is_that_of_the_formula():
    full = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).log()
    compressed = torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]]).log()
    found = compare(full, compressed, [0, 1, 0])
    second = 0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6)
    third = 0.2 * math.log(2) + 0.8 * math.log(0.8 / 0.9)
    assert found.token_kl == pytest.approx((0, second, third), rel=1e-3)
    assert found.top1 == pytest.approx(200 / 3)
    # After token 0 comes 1, after token 1 comes 0: probabilities 0.5 and 0.9 against 0.5 and 0.4.
    assert found.log_perplexity_ratio == pytest.approx((math.log(0.9) - math.log(0.4)) / 2)
    assert found.measures["kl"] == pytest.approx((second + third) / 3, rel=1e-3)


def test_summaries_are_of_samples_and_of_all_their_tokens():
    def figure(kl, top1, ratio, tokens):
        return {"measures": {"kl": kl, "top1": top1, "log_perplexity_ratio": ratio}, "token_kl": tokens}

    figures = [figure(1.0, 50.0, 0.0, [0.0] * 60), figure(3.0, 100.0, math.log(4), [2.0] * 40)]
    found = summarise(["a", "b"], figures)
    assert list(found) == ["a", "b", "all"]
    assert found["all"] == pytest.approx({"kl": 2, "kl_p95": 2, "top1_agreement": 75, "perplexity_ratio": 2})
    assert found["a"] == pytest.approx({"kl": 1, "kl_p95": 0, "top1_agreement": 50, "perplexity_ratio": 1})
