"""Answers in a LaTeX box."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.aime25 import AIME25
from evaluation.benchmarks.math500 import Math500
from tests.evaluation.benchmarks.sets import (
    check,
    row,
)


def test_boxed_answers():
    predictions = ["\\boxed{70}", "\\boxed{1} no, \\boxed{70}", "70", "seventy", "boxed{70"]
    aime, math500 = ([row(name, answer)] * 5 for name, answer in (("aime25", 70), ("math500", "70")))
    expected = {"correct": 4, "answered": 3, "accuracy": 0.8, "total": 5}  # the last box, or the bare number
    assert check(AIME25(), list(zip(aime, predictions, strict=True)), expected) == pytest.approx(80)
    expected = {"correct": 2, "answered": 3, "accuracy": 0.4, "total": 5}  # the first box
    assert check(Math500(), list(zip(math500, predictions, strict=True)), expected) == pytest.approx(40)
