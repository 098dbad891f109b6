"""Figures for one task, or for each."""

from __future__ import annotations

from evaluation.benchmarks.longbench import LongBench
from tests.evaluation.benchmarks.sets import (
    PLAIN,
    row,
)


def test_several_tasks_are_named():
    rows = [row("qasper", ["x"], **PLAIN), row("lcc", ["x"], **PLAIN)]
    assert LongBench().metrics(rows, ["x", "y"]) == {"qasper": 100.0, "lcc": 0.0}
