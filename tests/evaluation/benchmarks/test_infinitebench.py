"""InfiniteBench: which answers count as correct."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.infinitebench import InfiniteBench
from tests.evaluation.benchmarks.sets import (
    check,
    record,
    request,
    row,
    write,
)


@pytest.mark.parametrize(
    ("task", "answer", "right", "wrong"),
    [
        ("passkey", ["71432"], "it is 71432.", "1 71432"),
        ("number_string", ["220"], "220", ""),
        ("kv_retrieval", ["ab-12"], '"ab-12".', "ab-123"),
        ("longdialogue_qa_eng", ["ACE", "BO"], "It is bo", "C"),
        ("longbook_choice_eng", ["B"], "The answer is B or so", "A. C is right\nB"),
        ("longbook_choice_eng", ["B"], "answer is: Bx", "answer is: Cx B_"),
        ("longbook_choice_eng", ["B"], "Bx", ""),
        ("code_run", [-7], "value: -7", "7"),
        ("code_run", [7], "it is `7`.", "7 indeed"),
        ("code_debug", ["parse", "C"], "C", "A"),
        ("code_debug", ["parse", "C"], "the answer is: parse()", "is: other parse"),
        ("code_debug", ["parse", "C"], "`parse`"[1:], "answer:"),
        ("math_find", [12], "12 or 13", "1.2"),
        ("math_find", [1.5], "about 1.5", "none"),
    ],
)
def test_infinitebench_right_and_wrong(task, answer, right, wrong):
    cases = [(row(task, answer), right), (row(task, answer), wrong)]
    assert InfiniteBench().score(*cases[0]) == {"score": 100.0}
    assert check(InfiniteBench(), cases, 0.5) == pytest.approx(50)


def test_infinitebench_shares():
    check(InfiniteBench(), [(row("math_calc", [1, 4, 8, 9]), "[1, 04, 7, 9]")], 0.5)
    check(InfiniteBench(), [(row("longbook_qa_eng", ["x", "cat sat down"]), "the cat sat")], 0.8)
    # Shared characters of "北京大" and "北大": precision 2/2, recall 2/3.
    check(InfiniteBench(), [(row("longbook_qa_chn", ["北京大"]), "北 大。")], 0.8)
    # Line by line the longest common parts are "a b" and nothing: recall 2/4, precision 2/3.
    check(InfiniteBench(), [(row("longbook_sum_eng", ["a b\nc d"]), "a b\ne")], 4 / 7)


def test_infinitebench_reads_text_answers_as_the_metric_needs_them(word_tokenizer, tmp_path):
    question = "Which?\n\nOptions:\nA. foo\nB. bar\nC. baz\nD. qux"
    for task, answer in (
        ("code_debug", ["B"]),
        ("math_find", ["1.5"]),
        ("math_calc", ["1", "-2"]),
        ("code_run", ["7"]),
    ):
        write(tmp_path / task / "test.parquet", {**record(answer=answer), "question": question})
    tasks = ("code_run", "code_debug", "math_find", "math_calc")
    rows = InfiniteBench().rows(request(word_tokenizer, tmp_path, tasks=tasks))
    assert [row.answer for row in rows] == [[7], ["bar", "B"], [1.5], [1, -2]]
    write(tmp_path / "code_run" / "test.parquet", record(answer=["seven"]))
    with pytest.raises(ValueError, match="answers of task 'code_run' must be numbers"):
        InfiniteBench().rows(request(word_tokenizer, tmp_path, tasks=("code_run",)))
    write(tmp_path / "code_debug" / "test.parquet", record(answer=["B"]))
    with pytest.raises(ValueError, match="does not list the option 'B'"):
        InfiniteBench().rows(request(word_tokenizer, tmp_path, tasks=("code_debug",)))
