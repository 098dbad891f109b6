"""Benchmarks by name."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.registry import BENCHMARKS


def test_names_are_their_own_and_measures_say_what_is_better():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and benchmark.label([])
        assert benchmark.measures or name == "zero_scrolls"  # its answers are not public
        assert len({measure.name for measure in benchmark.measures}) == len(benchmark.measures)


def test_unknown_benchmarks_name_the_nearest():
    with pytest.raises(ValueError, match="unknown benchmark 'longbnch': did you mean longbench"):
        BENCHMARKS["longbnch"]
