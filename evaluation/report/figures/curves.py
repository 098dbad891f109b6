"""Score against compression ratio: one line per press, the full cache dashed, names at the ends of the lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from evaluation.report.figures.canvas import TEXT, Box, grid, say, settings, style_axes, widest
from evaluation.report.figures.labels import spread
from evaluation.report.format import interval, number
from evaluation.report.summary import Group, Summary
from evaluation.report.theme import Look, Theme, looks
from evaluation.schema import FULL_CACHE, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEADER = 18.0
# Opacity of the shading, shared by all shaded presses so that they do not hide the lines.
BAND = 0.16
GAP = TEXT * 1.22
# Axes of a figure with the full width of a page, in points.
WIDE, HIGH = 500.0, 300.0


def draw_curves(
    summary: Summary,
    groups: Sequence[Group],
    theme: Theme,
    measure: Measure | None = None,
    columns: int = 3,
    scale: Sequence[Group] | None = None,
    wide: bool = False,
) -> Figure:
    """Return one panel per group; all groups of `scale`, or all drawn if not given, share the score axis."""
    presses = summary.presses
    names = widest([summary.label(name) for name in [*presses, FULL_CACHE]], TEXT - 0.5)
    names = max(names, widest(summary.highlighted_labels, TEXT - 0.5, bold=True))
    width, height = (WIDE, HIGH) if wide else (Box.width, Box.height)
    box = Box(width=width, right=LEADER + 8 + names, height=max(height, (len(presses) + 1) * GAP + 8))
    styles = looks(presses, summary.highlighted, summary.masked)
    tables = [summary.of(group, measure) for group in scale or groups]
    limits = score_limits(tables, measure or groups[0].benchmark.main, summary.highlighted)
    with settings():
        figure, panels = grid(len(groups), columns, box, theme)
        for panel, group in zip(panels, groups, strict=True):
            style_axes(panel, theme, _title(group, measure or group.benchmark.main, box))
            draw_panel(panel, summary, group, measure or group.benchmark.main, styles, theme, box, limits)
        return figure


def _title(group: Group, measure: Measure, box: Box) -> str:
    if measure == group.benchmark.main:
        return group.title if group.length else f"{group.title}: {measure.label}"
    title = f"{measure.label}, {group.length} tokens" if group.length else measure.label
    return title if widest([title], TEXT + 1, bold=True) < box.full[0] - box.left else measure.label


def score_limits(tables: Sequence[pd.DataFrame], measure: Measure, shaded: Sequence[str] = ()) -> tuple[float, float]:
    """Return limits of the score axis that include all means, and the intervals of the shaded presses."""
    table = pd.concat(tables)
    bands = table.loc[table["press"].isin(list(shaded)), ["low", "high"]]
    values = np.concatenate([table["mean"].to_numpy(dtype=float), bands.to_numpy(dtype=float).ravel()])
    values = values[~np.isnan(values)]
    if on_log_axis(measure):
        values = values[values > 0]
        if not len(values):
            return 0.1, 1.0
        return float(values.min() / 1.4), float(values.max() * 1.4)
    low, high = values.min(), values.max()
    pad = 0.06 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def on_log_axis(measure: Measure) -> bool:
    """Whether a measure spans orders of magnitude."""
    return measure.name.startswith("kl")


def set_score_axis(panel: Axes, measure: Measure, limits: tuple[float, float]) -> None:
    """Scale and name the vertical axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if on_log_axis(measure):
        panel.set_yscale("log")
        decades = math.log10(limits[1] / limits[0])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(*limits)
    panel.set_ylabel(f"{measure.label} {'↑' if measure.higher_is_better else '↓'}", fontsize=TEXT - 0.5)


def draw_panel(
    panel: Axes,
    summary: Summary,
    group: Group,
    measure: Measure,
    styles: dict[str, Look],
    theme: Theme,
    box: Box,
    limits: tuple[float, float],
) -> None:
    """Draw the curves of one group."""
    table = summary.of(group, measure)
    colours = theme.tokens()
    compressed = table[table["press"] != FULL_CACHE]
    ratios = sorted(compressed["ratio"].unique())
    set_score_axis(panel, measure, limits)
    span = (ratios[-1] - ratios[0]) or 0.1
    panel.set_xlim(ratios[0] - 0.05 * span, ratios[-1] + 0.03 * span)
    panel.set_xticks(ratios, tick_labels(ratios, box))
    panel.set_xlabel("compression ratio", fontsize=TEXT - 0.5)
    band = BAND / max(1, sum(look.highlighted for look in styles.values()))
    ends: list[tuple[str, float, float]] = []
    for name, look in styles.items():
        line = compressed[compressed["press"] == name].sort_values("ratio")
        if on_log_axis(measure):
            line = line[line["mean"] > 0]
        if line.empty:
            continue
        draw_line(panel, line, look, colours[look.token], theme, band)
        say_values(panel, line, summary.label(name), measure, colours[look.token])
        ends.append((name, line["ratio"].iloc[-1], line["mean"].iloc[-1]))
    full = table.loc[table["press"] == FULL_CACHE, "mean"]
    if len(full) and (full.iloc[0] > 0 or not on_log_axis(measure)):
        panel.axhline(full.iloc[0], color=theme.ink, linewidth=1.2, dashes=(5, 3), zorder=2.5)
        ends.append((FULL_CACHE, panel.get_xlim()[1], full.iloc[0]))
    label_ends(panel, [(summary.label(name), x, y) for name, x, y in ends], by_label(summary, styles), theme, box)


def by_label(summary: Summary, styles: dict[str, Look]) -> dict[str, Look]:
    """Return the style of presses by their labels."""
    return {summary.label(name): look for name, look in styles.items()}


def say_values(panel: Axes, line: pd.DataFrame, label: str, measure: Measure, colour: str) -> None:
    """Add an invisible spot around each point of a press, with a tooltip of the press and its value."""
    for _, row in line.iterrows():
        between = interval(row, measure)
        text = f"{label}, ratio {row['ratio']:g}: {number(row['mean'], measure)}"
        (spot,) = panel.plot(
            row["ratio"], row["mean"], "o", markersize=11, color=colour, alpha=0, zorder=6, clip_on=False
        )
        say(spot, f"{text} ({between})" if between else text)


def tick_labels(ratios: Sequence[float], box: Box) -> list[str]:
    """Return a label for each ratio, empty if it would touch the previous one; the last one is kept."""
    span = (ratios[-1] - ratios[0]) or 1.0
    labels: list[str] = []
    free_from = ratios[-1] + 1.0
    for ratio in reversed(ratios):
        text = f"{ratio:g}"
        half = (widest([text], TEXT - 0.5) / 2 + 2) * span / box.width
        fits = ratio + half <= free_from
        labels.append(text if fits else "")
        free_from = ratio - half if fits else free_from
    return labels[::-1]


def draw_line(
    panel: Axes, line: pd.DataFrame, look: Look, colour: str, theme: Theme, band: float, across: str = "ratio"
) -> None:
    """Draw one press against a column; only highlighted presses are thick, and shaded with the opacity `band`."""
    if look.highlighted:
        panel.fill_between(line[across], line["low"], line["high"], color=colour, alpha=band, linewidth=0, zorder=3)
    panel.plot(
        line[across],
        line["mean"],
        color=colour,
        linewidth=2.6 if look.highlighted else 1.1,
        marker=look.marker,
        markersize=5.5 if look.highlighted else 3.6,
        markerfacecolor=theme.surface if look.hollow else colour,
        markeredgecolor=colour,
        markeredgewidth=1.1,
        zorder=5 if look.highlighted else 3,
        clip_on=False,
    )


def label_ends(
    panel: Axes, ends: list[tuple[str, float, float]], styles: dict[str, Look], theme: Theme, box: Box
) -> None:
    """Write each name next to the end of its line, moved apart where they overlap, with a thin connecting line."""
    colours = theme.tokens()
    to_axes = panel.transData + panel.transAxes.inverted()
    points = to_axes.transform(np.array([(ratio, mean) for _, ratio, mean in ends]))
    heights = spread([y * box.height for _, y in points], GAP, 0.0, box.height)
    for (name, _, _), (x, y), height in zip(ends, points, heights, strict=True):
        look = styles.get(name)
        colour = colours[look.token] if look else theme.ink
        start, end = x + 5 / box.width, 1 + LEADER / box.width
        panel.plot(
            [start, max(start, 1 + 6 / box.width), end],
            [y, y, height / box.height],
            transform=panel.transAxes,
            color=colour,
            linewidth=0.7,
            clip_on=False,
            zorder=2,
        )
        special = look is not None and look.highlighted
        panel.text(
            end + 3 / box.width,
            height / box.height,
            name,
            transform=panel.transAxes,
            va="center_baseline",
            fontsize=TEXT - 0.5,
            color=colour if special else theme.ink,
            fontweight="bold" if special else "normal",
        )
