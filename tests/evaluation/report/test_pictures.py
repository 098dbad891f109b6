"""The pictures of a report."""

from __future__ import annotations

from xml.etree import ElementTree

from evaluation.report.pictures import curve_svg, has_means, has_times, of_benchmarks


def test_benchmarks_come_with_their_groups(summary):
    found = of_benchmarks(summary)
    assert [benchmark.name for benchmark, _ in found] == [benchmark.name for benchmark in summary.study.benchmarks]
    for benchmark, groups in found:
        assert groups and all(group.benchmark == benchmark for group in groups)
        assert has_times(summary, groups) in (True, False) and has_means(summary, groups[0], benchmark.main)


def test_a_curve_is_one_svg_that_says_what_it_shows(summary):
    benchmark, groups = of_benchmarks(summary)[0]
    root = ElementTree.fromstring(curve_svg(summary, groups[0], groups, benchmark.main))
    assert root.tag.endswith("svg") and benchmark.main.label in root.attrib["aria-label"]
