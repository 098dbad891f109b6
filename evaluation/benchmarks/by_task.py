"""Answers, task by task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from evaluation.rows import Row

T = TypeVar("T")

Answered = list[tuple[Row, str]]


def by_task(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, Answered]:
    """Return rows with their predictions for each task, tasks in the order of their first rows."""
    tasks: dict[str, Answered] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        tasks.setdefault(row.task, []).append((row, prediction))
    return tasks


def one_or_all(
    rows: Sequence[Row], predictions: Sequence[str], metric: Callable[[str, Answered], T]
) -> T | dict[str, T]:
    """Return the metric of a single task, as in kvpress; for several tasks, each metric by name."""
    values = {task: metric(task, answered) for task, answered in by_task(rows, predictions).items()}
    return next(iter(values.values())) if len(values) == 1 else values
