"""LongBench-E: figures by length."""

from __future__ import annotations

import math
import warnings

from evaluation.benchmarks.longbench_e import LongBenchE
from tests.evaluation.benchmarks.sets import (
    PLAIN,
    row,
)


def test_longbench_e_has_buckets_and_keeps_leading_spaces():
    rows = [row("lcc", [" x"], length=length, **PLAIN) for length in (3999, 4000, 7999)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buckets = LongBenchE().metrics(rows, ["\n x", " x", "x"])
    # "x" against " x": 2 * 1 of 3 characters, 67 whole percent.
    assert (buckets["0-4k"], buckets["4-8k"]) == (100.0, 83.5)
    assert math.isnan(buckets["8k+"])
    assert LongBenchE().score(rows[0], "x") == {"score": 67.0}
