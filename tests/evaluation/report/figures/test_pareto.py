"""Score against cost."""

from __future__ import annotations

from evaluation.report.figures.pareto import draw_pareto
from evaluation.report.pictures import HELD
from evaluation.report.theme import LIGHT


def test_a_panel_for_each_group_names_its_axis(summary):
    groups = [group for group in summary.groups if group.benchmark.name == "ruler"]
    figure = draw_pareto(summary, [(group, None) for group in groups], HELD, LIGHT)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [group.title for group in groups]
    assert all(len(axes.lines) + len(axes.collections) > 0 for axes in panels)
