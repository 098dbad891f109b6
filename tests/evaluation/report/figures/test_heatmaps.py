"""Heat maps as pictures."""

from __future__ import annotations

from evaluation.report.figures.heatmaps import draw_depth_heat, draw_task_heat
from evaluation.report.heat import task_heat
from evaluation.report.theme import LIGHT


def test_every_cell_is_written(summary):
    group = next(group for group in summary.groups if group.benchmark.name == "ruler")
    ratio = summary.ratios(group)[0]
    written = {text.get_text() for axes in draw_task_heat(summary, group, ratio, LIGHT).axes for text in axes.texts}
    heat = task_heat(summary, group, ratio)
    assert {cell.text for row in heat.cells for cell in row} <= written


def test_depths_have_a_panel_for_each_press(needles):
    summary = needles
    groups = [group for group in summary.groups if group.benchmark.name == "needle"]
    figure = draw_depth_heat(summary, groups, summary.ratios(groups[0])[0], LIGHT)
    titles = {axes.get_title() or axes.get_title(loc="left") for axes in figure.axes}
    assert "full cache" in titles
