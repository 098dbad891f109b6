"""The data that a report is made from."""

from __future__ import annotations

from evaluation.report.contents import MeasuredBenchmark
from evaluation.schema import Measure


def test_the_first_measure_is_the_main_one_and_slugs_are_file_names():
    benchmark = MeasuredBenchmark("ruler (4k)/x", "RULER", (Measure("a", "A", True), Measure("b", "B", True)))
    assert benchmark.main.name == "a" and benchmark.slug == "ruler-4k-x"
