"""The numbers of heat maps, shared by figures and tables of the page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.report.format import MISSING, number
from evaluation.report.summary import ALL_TASKS, Group, Summary, axis_range
from evaluation.schema import FULL_CACHE


@dataclass(frozen=True)
class Cell:
    """A text and its position on the colour ramp from 0 (worst) to 1 (best); None if there is no measurement."""

    text: str
    position: float | None


@dataclass(frozen=True)
class Heat:
    """A labelled grid of cells."""

    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]


def task_heat(summary: Summary, group: Group, ratio: float) -> Heat:
    """Return presses x tasks at one ratio, the full cache first and the mean over samples last."""
    measure = group.benchmark.main
    table = summary.by_task(group)
    values = table["mean"].to_numpy(dtype=float)
    low, high = axis_range(values, measure)
    logarithmic = measure.name.startswith("kl") and (values > 0).sum() > 1
    if logarithmic:
        low, high = float(values[values > 0].min()), float(values.max())

    def position(value: float) -> float | None:
        if math.isnan(value):
            return None
        if logarithmic:
            share = 0.0 if value <= 0 else math.log(value / low) / (math.log(high / low) or 1.0)
        else:
            share = (value - low) / ((high - low) or 1.0)
        share = min(1.0, max(0.0, share))
        return share if measure.higher_is_better else 1 - share

    at_ratio = table[(table["ratio"] == ratio) | (table["press"] == FULL_CACHE)]
    grid = at_ratio.pivot(index="press", columns="task", values="mean")
    tasks = [*group.tasks, *([ALL_TASKS] if len(group.tasks) > 1 else [])]
    presses = [name for name in [FULL_CACHE, *summary.presses] if name in grid.index]
    grid = grid.reindex(index=presses, columns=tasks if len(group.tasks) > 1 else [ALL_TASKS])

    def text(value: float) -> str:
        return number(value, measure) if math.isnan(value) or not measure.percent else f"{value:.0f}"

    cells = [[Cell(text(value), position(value)) for value in row] for row in grid.to_numpy(dtype=float)]
    columns = ["mean" if name == ALL_TASKS else name for name in grid.columns]
    return Heat([summary.label(name) for name in presses], columns, cells)


def depth_heat(summary: Summary, groups: list[Group], ratio: float) -> dict[str, Heat]:
    """Return depths x lengths of each press, the full cache first."""
    measure = groups[0].benchmark.main
    tables = {str(group.length): summary.by_task(group) for group in groups}
    depths = sorted({task for group in groups for task in group.tasks})
    whole = pd.concat(tables)
    largest = 100.0 if measure.percent else max(1.0, float(np.nanmax(whole["mean"])))
    heats: dict[str, Heat] = {}
    for press in [FULL_CACHE, *summary.presses]:
        columns = []
        for table in tables.values():
            rows = table[(table["press"] == press) & (table["ratio"].isin([ratio]) | (press == FULL_CACHE))]
            columns.append(rows.set_index("task")["mean"].reindex(depths).to_numpy(dtype=float) / largest)
        values = np.column_stack(columns)
        if np.isnan(values).all():
            continue
        cells = [[_found(value) for value in row] for row in values]
        heats[summary.label(press)] = Heat([_depth(task) for task in depths], list(tables), cells)
    return heats


def _found(share: float) -> Cell:
    return Cell(MISSING, None) if math.isnan(share) else Cell(f"{100 * share:.0f}", share)


def _depth(task: str) -> str:
    """Return the depth in percent at the end of a task's name."""
    match = re.search(r"(\d+)$", task)
    return str(int(match.group(1))) if match else task
