"""The standard sets: what their loaders read."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.aime25 import AIME25
from evaluation.benchmarks.infinitebench import InfiniteBench
from evaluation.benchmarks.longbench import LongBench
from evaluation.benchmarks.longbench_e import LongBenchE
from evaluation.benchmarks.longbench_v2 import LongBenchV2
from evaluation.benchmarks.loogle import LooGLE
from evaluation.benchmarks.math500 import Math500
from evaluation.benchmarks.zero_scrolls import ZeroScrolls
from tests.evaluation.benchmarks.sets import (
    record,
    request,
    write,
)

LOADS = [
    (LongBench, "trec/test.parquet", record(answers=["x"], all_classes=["x", "y"], task="trec"), ("trec",)),
    (LongBenchE, "qasper_e/test.parquet", record(answers=["x"], all_classes=None, length=3, task="-"), ("qasper",)),
    (LongBenchV2, "0shot/test.parquet", record(answer="A", difficulty="easy", length="short"), None),
    (InfiniteBench, "passkey/test.parquet", record(answer=["71432"], task="passkey"), ("passkey",)),
    (LooGLE, "longdep_qa/test.parquet", record(answer="x", task="longdep_qa"), ("longdep_qa",)),
    (ZeroScrolls, "data/test.parquet", record(answer="", task="qasper"), ("qasper",)),
    (AIME25, "data/test.parquet", record(answer=70), None),
    (Math500, "test.parquet", record(answer="70"), None),
]


@pytest.mark.parametrize(("benchmark", "path", "columns", "tasks"), LOADS, ids=lambda value: getattr(value, "name", ""))
def test_loads_from_a_folder(word_tokenizer, tmp_path, benchmark, path, columns, tasks):
    write(tmp_path / path, columns, columns)
    rows = benchmark().rows(request(word_tokenizer, tmp_path, tasks=tasks))
    assert len(rows) == 2
    assert rows[0].answer == columns.get("answer", columns.get("answers"))
    assert (rows[0].context, rows[0].max_new_tokens) == ("A text.", 8)
    if tasks:
        assert rows[0].task == tasks[0]


@pytest.mark.parametrize(("benchmark", "path", "columns", "tasks"), LOADS, ids=lambda value: getattr(value, "name", ""))
def test_says_what_is_wrong_with_the_data(word_tokenizer, tmp_path, benchmark, path, columns, tasks):
    with pytest.raises(FileNotFoundError, match="hf download"):
        benchmark().rows(request(word_tokenizer, tmp_path, tasks=tasks))
    with pytest.raises(ValueError, match="task 'no such task': known are"):
        benchmark().rows(request(word_tokenizer, tmp_path, tasks=("no such task",)))
    answer = "answers" if "answers" in columns else "answer"
    write(tmp_path / path, {**columns, answer: 1.5})
    with pytest.raises(TypeError, match=f"test.parquet, record 1: column '{answer}' must hold .* not float"):
        benchmark().rows(request(word_tokenizer, tmp_path, tasks=tasks))
