"""The numbers of heat maps, and their positions on the colour ramp."""

from __future__ import annotations

from evaluation.report.heat import depth_heat, task_heat


def test_the_full_cache_comes_first_and_the_mean_last(summary):
    group = next(group for group in summary.groups if group.benchmark.name == "ruler")
    heat = task_heat(summary, group, summary.ratios(group)[0])
    assert heat.rows[0] == "full cache" and heat.columns[-1] == "mean" and len(heat.cells) == len(heat.rows)
    places = [cell.position for row in heat.cells for cell in row if cell.position is not None]
    assert all(0 <= place <= 1 for place in places)
    values = {float(cell.text): cell.position for cell in heat.cells[1]}
    assert sorted(values) == sorted(values, key=values.get)  # a higher score is further along


def test_the_lowest_divergence_is_the_best(summary):
    group = next(group for group in summary.groups if group.benchmark.name == "fidelity")
    heat = task_heat(summary, group, summary.ratios(group)[0])
    means = [(float(row[-1].text), row[-1].position) for row in heat.cells[1:]]
    assert max(means)[1] <= min(means)[1]


def test_depths_are_read_from_tasks(needles):
    summary = needles
    groups = [group for group in summary.groups if group.benchmark.name == "needle"]
    heats = depth_heat(summary, groups, summary.ratios(groups[0])[0])
    first = next(iter(heats.values()))
    assert next(iter(heats)) == "full cache" and all(depth.isdigit() for depth in first.rows)
    assert first.columns == [str(group.length) for group in groups]
