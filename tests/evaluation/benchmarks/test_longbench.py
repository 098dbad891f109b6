"""LongBench: its tasks, and figures computed by hand."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.longbench import LongBench
from tests.evaluation.benchmarks.sets import (
    PLAIN,
    check,
    record,
    request,
    row,
    write,
)


def test_longbench_takes_the_english_tasks_unless_told(word_tokenizer, tmp_path):
    write(tmp_path / "all.parquet", *[record(answers=["x"], all_classes=["x"], task=t) for t in ("lsht", "qasper")])
    (row,) = LongBench().rows(request(word_tokenizer, tmp_path, tasks=("lsht",)))
    assert row.task == "lsht"
    with pytest.raises(FileNotFoundError, match="'narrativeqa'"):
        LongBench().rows(request(word_tokenizer, tmp_path))
    write(tmp_path / "trec.parquet", record(answers=["x"], all_classes=None))
    with pytest.raises(TypeError, match="'all_classes' must hold a list of text, not nothing"):
        LongBench().rows(request(word_tokenizer, tmp_path, tasks=("trec",)))


def test_longbench_overlap():
    # "cat sat" against "cat sat down": precision 1, recall 2/3, F1 0.8; the best of the answers counts.
    cases = [(row("qasper", ["dog", "The cat sat down."], **PLAIN), "A cat sat!"), (row("qasper", ["x"], **PLAIN), "")]
    assert check(LongBench(), cases, 40.0) == pytest.approx(40)


def test_longbench_first_line_only():
    cases = [(row("triviaqa", ["Paris"], **PLAIN), "\n Paris\nQuestion: next"), (row("triviaqa", ["x"], **PLAIN), "y")]
    check(LongBench(), cases, 50.0)


def test_longbench_classification():
    classes = ["An", "Anim", "Animal", "Food"]
    # Of "An", "Anim" (both parts of "Animal"), the scorer drops "An" and passes over "Anim".
    cases = [(row("trec", ["Animal"], all_classes=classes), "Animal"), (row("trec", ["Food"], all_classes=classes), "")]
    check(LongBench(), cases, 25.0)
    check(LongBench(), [(row("trec", ["Food"], all_classes=classes), "Food or An")], 50.0)


def test_longbench_numbers_and_code():
    check(LongBench(), [(row("passage_count", ["3"], **PLAIN), "3 of 3, or 4?")], 66.67)
    check(LongBench(), [(row("passage_retrieval_en", ["Paragraph 5"], **PLAIN), "Paragraph 5")], 100.0)
    check(LongBench(), [(row("passage_retrieval_zh", ["段落5"], **PLAIN), "段落5或6")], 50.0)
    # "abcd" against "abce": 2 * 3 shared characters of 8.
    check(LongBench(), [(row("lcc", ["abce"], **PLAIN), "```\n# note\nabcd\nrest")], 75.0)
    with pytest.raises(ValueError, match="must name a paragraph"):
        LongBench().score(row("passage_retrieval_en", ["five"], **PLAIN), "5")


def test_longbench_rouge_and_chinese():
    # LCS of "a b c d" and "a c": precision 2/2, recall 2/4, F 2/3.
    check(LongBench(), [(row("gov_report", ["a b c d"], **PLAIN), "a c")], 66.67)
    check(LongBench(), [(row("gov_report", ["a b"], **PLAIN), "")], 0.0)
    check(LongBench(), [(row("multifieldqa_zh", ["北京"], **PLAIN), "“北京”。")], 100.0)
    check(LongBench(), [(row("vcsum", ["北京"], **PLAIN), "北京")], 100.0)
