"""Records, rows and a tokenizer for the standard sets."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation.benchmarks.benchmark import Request
from evaluation.rows import Row

WORDS = [f"w{i}" for i in range(3000)]
PLAIN = {"all_classes": None}


def make_tokenizer(vocabulary):
    words = ["<unk>", *dict.fromkeys(vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def record(**columns):
    return {"context": "A text.", "question": "Q?", "answer_prefix": "A:", "max_new_tokens": 8, **columns}


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)


def request(tokenizer, data, length=None, tasks=None):
    return Request(tokenizer, length, samples=1, seed=0, data=data, tasks=tasks)


def row(task, answer, **extras):
    return Row("context", "question", "", answer, 8, task, extras)


def check(benchmark, cases, expected):
    """Compare metrics, and the mean of the main measure where the metric is one number."""
    rows, predictions = [case[0] for case in cases], [case[1] for case in cases]
    value = benchmark.metrics(rows, predictions)
    assert value == pytest.approx(expected, abs=1e-9)
    scores = [benchmark.score(row, prediction) for row, prediction in cases]
    assert all(set(score) == {measure.name for measure in benchmark.measures} for score in scores)
    return sum(score[benchmark.measures[0].name] for score in scores) / len(scores)
