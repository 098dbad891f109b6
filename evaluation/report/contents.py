"""What a report is made from: benchmarks with their measures, presses, and one row a result."""

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
        """The measure that pictures show."""
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
    """Everything that was measured.

    Attributes
    ----------
    facts : dict
        What `study.yaml` says of model, seed, command, commit, versions and machine; lists where folders differ.
    benchmarks, presses : list
        In the order of `study.yaml`, and only those with results.
    rows : DataFrame
        One row a result; measures in columns `measure_<name>`, `length` 0 where the benchmark has none.
    notes : list of str
        What a reader must know about missing results.
    labels : dict
        What presses are called in tables and pictures, where that is not their name.
    """

    facts: dict[str, Any]
    benchmarks: list[MeasuredBenchmark]
    presses: list[Press]
    rows: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
