"""The interface of benchmarks."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row
from evaluation.schema import Measure
from pikvpress.support.registry import check_name


@dataclass(frozen=True)
class Request:
    """A request for rows.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer of the evaluated model; lengths are counted in its tokens.
    length : int, optional
        Maximum number of tokens of context, question and answer together, including the chat template; for benchmarks
        that are generated at any length.
    samples : int
        Rows per task, for generated benchmarks.
    seed : int
        Random seed of all random choices. Sample i does not depend on the number of samples.
    data : Path, optional
        A local folder with the benchmark's data, instead of a hub.
    tasks : tuple of str, optional
        Only these tasks; all by default.
    continued : int, optional
        Tokens after the prompt, for benchmarks that go on; by default three quarters of the length.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int | None
    samples: int
    seed: int
    data: Path | None = None
    tasks: tuple[str, ...] | None = None
    continued: int | None = None


class Benchmark(ABC):
    """Rows that can be evaluated.

    Attributes
    ----------
    name : str
        Name on the command line.
    measures : tuple of Measure
        Measures of every sample, the main one first.
    by_length : bool
        Whether `Request.length` is needed, since rows are generated or available at several lengths.
    generated : bool
        Whether rows are random, so that a subset can be the first rows; otherwise a subset is drawn at random.
    teacher_forced : bool
        Whether predictions along the correct answer are compared, instead of judging answers.
    goes_on : bool
        Whether presses compress while these predictions are made, instead of once before them.
    of_documents : bool
        Whether contexts consist of documents that can be read apart: rows then say in ``extras["starts"]`` at which
        characters of the context these begin, and the tokens that were read for an answer are one of its measures.
    """

    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    by_length: ClassVar[bool] = False
    generated: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False
    of_documents: ClassVar[bool] = False

    @abstractmethod
    def rows(self, request: Request) -> list[Row]:
        """Return the rows, deterministically for a request.

        Raises
        ------
        ValueError
            For tasks that the benchmark does not have, or a length that is too short for one.
        FileNotFoundError
            If data is missing; the message explains how to get it.
        """

    def label(self, tasks: Sequence[str]) -> str:
        """Return the benchmark's name in tables and folders, given the tasks that were run."""
        return self.name


class AnswerBenchmark(Benchmark):
    """Rows whose answers are judged."""

    @abstractmethod
    def score(self, row: Row, prediction: str) -> dict[str, float]:
        """Return the measures of one answer."""

    @abstractmethod
    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> Any:
        """Return the contents of ``metrics.json``: the metrics of kvpress's evaluation, in its layout."""


def drawn(request: Request, tasks: Sequence[str], make_row: Callable[[str, Request, random.Random], Row]) -> list[Row]:
    """Return `Request.samples` rows per task, each with its own seed, so that no row depends on the number of rows."""
    return [
        make_row(task, request, random.Random(f"{request.seed}/{request.length}/{task}/{index}"))
        for task in tasks
        for index in range(request.samples)
    ]


def chosen_tasks(benchmark: str, wanted: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Return the requested tasks in the benchmark's order, or all.

    Raises
    ------
    ValueError
        For a task that is not available; the message suggests similar names.
    """
    if wanted is None:
        return list(available)
    for task in wanted:
        check_name(task, available, f"{benchmark} task")
    return [task for task in available if task in wanted]
