"""LongBench v2: choices."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.longbench_v2 import LongBenchV2
from tests.evaluation.benchmarks.sets import (
    check,
    row,
)


def test_longbench_v2():
    kinds = [("easy", "short"), ("hard", "short"), ("hard", "long")]
    rows = [row("0shot", "B", difficulty=difficulty, length=length) for difficulty, length in kinds]
    cases = list(zip(rows, ["The correct answer is (B).", "**The correct answer is B**", "B"], strict=True))
    expected = {"average": 2 / 3, "easy": 1.0, "hard": 0.5, "long": 0.0, "short": 1.0}
    assert check(LongBenchV2(), cases, expected) == pytest.approx(200 / 3)
    assert list(LongBenchV2().metrics(rows, ["", "", ""])) == list(expected)
