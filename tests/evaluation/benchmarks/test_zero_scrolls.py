"""ZeroSCROLLS: its answers are not public."""

from __future__ import annotations

from evaluation.benchmarks.zero_scrolls import ZeroScrolls
from tests.evaluation.benchmarks.sets import (
    row,
)


def test_zero_scrolls_has_no_figures():
    assert ZeroScrolls().metrics([row("qasper", "")], ["x"]) == {}
    assert ZeroScrolls().score(row("qasper", ""), "x") == {}
    assert ZeroScrolls().measures == ()
