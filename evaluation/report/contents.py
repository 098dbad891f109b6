"""The input of a report: benchmarks with their measures, presses, and one row per result."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from evaluation.schema import Measure

FULL_CACHE_LABEL = "full cache"


@dataclass(frozen=True)
class MeasuredBenchmark:
    """A benchmark; its first measure is the main one."""

    name: str
    label: str
    measures: tuple[Measure, ...]

    @property
    def main(self) -> Measure:
        """The measure that figures show."""
        return self.measures[0]

    @property
    def slug(self) -> str:
        """Name for files and anchors."""
        return re.sub(r"[^\w.-]+", "-", self.name)


@dataclass(frozen=True)
class Press:
    """A press: what its ratio counts (None if it has none), and whether it masks keys instead of dropping them."""

    name: str
    unit: str | None
    masks: bool


@dataclass(frozen=True)
class Results:
    """All results.

    Attributes
    ----------
    facts : dict
        Model, seed, command, commit, versions and machine from `study.yaml`; lists where folders differ.
    benchmarks, presses : list
        Those with results, in the order of `study.yaml`.
    rows : DataFrame
        One row per result; measures in columns `measure_<name>`, `length` 0 if the benchmark has none.
    notes : list of str
        Notes about missing results for the reader.
    labels : dict
        Labels of presses in tables and figures, if they differ from their names.
    """

    facts: dict[str, Any]
    benchmarks: list[MeasuredBenchmark]
    presses: list[Press]
    rows: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
