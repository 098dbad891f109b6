"""A study as a list of contexts, each with the samples that share it."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from evaluation.benchmarks.benchmark import Benchmark, Request
from evaluation.prompts import encode
from evaluation.rows import Row
from evaluation.study import BenchmarkSettings, Study
from pikvpress.prompts import token_ids


@dataclass(frozen=True)
class Sample:
    """A row of a study.

    Parameters
    ----------
    name : str
        Task and number, the same in every study with the same seed and length.
    row : Row
        The benchmark's row, or in a query-aware study with the question after the context.
    context, question : tuple of int
        Token ids.
    answer : tuple of int
        Token ids of the correct answer, for teacher-forced benchmarks.
    context_only : int
        Number of tokens of the context without a question after it.
    """

    name: str
    row: Row
    context: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    context_only: int


@dataclass(frozen=True)
class Unit:
    """Samples that share a context and therefore a prefill."""

    settings: BenchmarkSettings
    length: int | None
    samples: tuple[Sample, ...]

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark of the samples."""
        return self.settings.benchmark

    @property
    def context(self) -> tuple[int, ...]:
        """Token ids of the context."""
        return self.samples[0].context


def make_units(study: Study, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> list[Unit]:
    """Return the units of a study, with alternating tasks, so that each task starts early.

    Raises
    ------
    ValueError
        If a sample is longer than the model's maximum position; nothing has been run in this case.
    FileNotFoundError
        If a benchmark's data is missing.
    """
    units = []
    for settings in study.benchmarks:
        for length in settings.lengths or (None,):
            samples = list(_samples(study, settings, length, tokenizer))
            for sample in samples:
                _check_fits(sample, settings.name, positions)
            units += _units(settings, length, samples)
    return units


def _samples(
    study: Study, settings: BenchmarkSettings, length: int | None, tokenizer: PreTrainedTokenizerBase
) -> Iterable[Sample]:
    benchmark = settings.benchmark
    rows = benchmark.rows(
        Request(tokenizer, length, settings.samples, study.seed, settings.data, settings.tasks, settings.continued)
    )
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_task[row.task].append(row)
    numbered = [
        (number, f"{task}-{number}", row)
        for task, of_task in by_task.items()
        for number, row in _share(of_task, settings.fraction, benchmark.generated, f"{study.seed}/{task}")
    ]
    for _, name, row in sorted(numbered, key=lambda entry: entry[0]):  # stable: tasks take turns
        if study.max_new_tokens is not None and not benchmark.teacher_forced:
            row = replace(row, max_new_tokens=study.max_new_tokens)
        alone = len(encode(tokenizer, row)[0])
        if study.query_aware:
            row = replace(row, context=row.context + row.question, question="")
        context, question = encode(tokenizer, row)
        answer = token_ids(tokenizer, row.answer) if benchmark.teacher_forced else ()
        yield Sample(name, row, tuple(context), tuple(question), tuple(answer), alone)


def _share(rows: list[Row], fraction: float, generated: bool, seed: str) -> list[tuple[int, Row]]:
    """Return a share of a task's rows with their numbers: the first ones of random rows, otherwise a random draw."""
    count = math.ceil(len(rows) * fraction)
    chosen = range(count) if generated else sorted(random.Random(seed).sample(range(len(rows)), count))
    return [(number, rows[number]) for number in chosen]


def _units(settings: BenchmarkSettings, length: int | None, samples: Iterable[Sample]) -> list[Unit]:
    by_context: dict[tuple, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_context[sample.context].append(sample)
    return [Unit(settings, length, tuple(same)) for same in by_context.values()]


def _check_fits(sample: Sample, benchmark: str, positions: int | None) -> None:
    follows = len(sample.answer) or sample.row.max_new_tokens
    total = len(sample.context) + len(sample.question) + follows
    if positions is not None and total > positions:
        raise ValueError(
            f"sample {sample.name} of {benchmark} takes {total} tokens with its answer, but the model has {positions} "
            "positions: choose a shorter --length, other tasks, or a model with more positions"
        )
