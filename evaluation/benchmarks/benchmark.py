"""What every benchmark provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row
from evaluation.schema import Measure
from pikvpress.support.registry import check_name


@dataclass(frozen=True)
class Request:
    """Which rows are wanted.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of the model to be evaluated; lengths are counted in its tokens.
    length : int, optional
        Tokens that context, question and answer may take together, chat template included; for benchmarks that are
        generated at any length.
    samples : int
        Rows a task, for benchmarks that are generated.
    seed : int
        Of every random choice. Sample i is the same however many samples are asked for.
    data : Path, optional
        A local folder with the benchmark's data, in place of a hub.
    tasks : tuple of str, optional
        Only these tasks; all by default.
    """

    tokenizer: PreTrainedTokenizerBase
    length: int | None
    samples: int
    seed: int
    data: Path | None = None
    tasks: tuple[str, ...] | None = None


class Benchmark(ABC):
    """Rows that can be evaluated.

    Attributes
    ----------
    name : str
        As on the command line.
    measures : tuple of Measure
        What every sample has, the main one first.
    by_length : bool
        Whether `Request.length` is needed: rows are made, or come, at several lengths.
    generated : bool
        Whether rows are random, so that the first few are as good as any; of others a few are drawn.
    teacher_forced : bool
        Whether predictions along the right answer are compared, rather than answers judged.
    """

    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    by_length: ClassVar[bool] = False
    generated: ClassVar[bool] = False
    teacher_forced: ClassVar[bool] = False

    @abstractmethod
    def rows(self, request: Request) -> list[Row]:
        """Return the rows, the same for the same request.

        Raises
        ------
        ValueError
            For tasks that the benchmark does not have, or a length that is too short for one.
        FileNotFoundError
            If data is missing; the message says how to get it.
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
        """Return what is written into ``metrics.json``: the figures that kvpress's evaluation writes, in its layout."""


def chosen_tasks(benchmark: str, wanted: Sequence[str] | None, available: Sequence[str]) -> list[str]:
    """Return the wanted tasks in the benchmark's order, or all.

    Raises
    ------
    ValueError
        For a task that is not available; near names are offered.
    """
    if wanted is None:
        return list(available)
    for task in wanted:
        check_name(task, available, f"{benchmark} task")
    return [task for task in available if task in wanted]
