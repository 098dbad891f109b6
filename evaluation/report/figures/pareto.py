"""Score against cost: bytes actually held, or time that the press adds, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from evaluation.report.contents import FULL_CACHE_LABEL
from evaluation.report.figures.canvas import TEXT, Box, grid, say, settings, style_axes, widest
from evaluation.report.figures.curves import by_label, score_limits, set_score_axis
from evaluation.report.figures.labels import Rectangle, place
from evaluation.report.format import number
from evaluation.report.statistics import pareto_front
from evaluation.report.summary import Group, Summary
from evaluation.report.theme import Look, Theme, looks
from evaluation.schema import FULL_CACHE, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HELD = "held_percent"
OVERHEAD = "overhead_percent"
AXES = {HELD: "bytes held, % of full cache", OVERHEAD: "time the press adds, % of prefill"}
UNITS = {HELD: "of the full cache's bytes", OVERHEAD: "added to the prefill"}
BOX = Box(width=270.0, height=190.0, right=18.0)
KEY_HEIGHT = 15.0


def draw_pareto(
    summary: Summary,
    panels_of: Sequence[tuple[Group, float | None]],
    cost: str,
    theme: Theme,
    columns: int = 3,
    key: bool = True,
    scale: Sequence[tuple[Group, float | None]] | None = None,
) -> Figure:
    """Return one panel for each group and ratio; None stands for all ratios together.

    Parameters
    ----------
    cost : str
        `held_percent` or `overhead_percent`.
    key : bool
        Whether to add the legend below, which a page may show once instead.
    scale : sequence of tuple, optional
        The groups and ratios that share the score axis, those drawn if not given.
    """
    styles = by_label(summary, looks(summary.presses, summary.highlighted, summary.masked))
    measure = panels_of[0][0].benchmark.main
    limits = score_limits([_points(summary, *pair) for pair in scale or panels_of], measure)
    with settings():
        layout = _key_layout(list(styles), min(columns, len(panels_of))) if key else _KeyLayout(1, 0.0, 0.0, 0.0)
        figure, panels = grid(len(panels_of), columns, BOX, theme, below=layout.below, beside=layout.beside)
        for panel, (group, ratio) in zip(panels, panels_of, strict=True):
            title = group.title if ratio is None else f"{group.title}, ratio {ratio:g}"
            style_axes(panel, theme, title)
            set_score_axis(panel, measure, limits)
            table = _points(summary, group, ratio).dropna(subset=["mean", cost])
            table = table.assign(press=table["press"].map(summary.label))
            _draw_panel(panel, table, cost, measure, styles, theme)
        if key:
            _draw_key(figure, styles, layout, theme)
        return figure


def _points(summary: Summary, group: Group, ratio: float | None) -> pd.DataFrame:
    table = summary.of(group)
    return table if ratio is None else table[(table["ratio"] == ratio) | (table["press"] == FULL_CACHE)]


def _draw_panel(
    panel: Axes, table: pd.DataFrame, cost: str, measure: Measure, styles: dict[str, Look], theme: Theme
) -> None:
    panel.set_xlabel(AXES[cost], fontsize=TEXT - 0.5)
    low, high = panel.get_ylim()
    # A log axis cannot show the full cache's KL, which is zero.
    table = table[(table["mean"] >= low) & (table["mean"] <= high)]
    full = table.loc[table["press"] == FULL_CACHE_LABEL, "mean"]
    table = table[table["press"] != FULL_CACHE_LABEL]
    costs, scores = table[cost].to_numpy(dtype=float), table["mean"].to_numpy(dtype=float)
    _set_cost_axis(panel, costs, cost)
    colours = theme.tokens()
    front = pareto_front(costs, scores, measure.higher_is_better)
    panel.step(costs[front], scores[front], where="post", color=theme.muted, linewidth=1.0, dashes=(1.5, 1.5), zorder=2)
    for index, (name, ratio) in enumerate(zip(table["press"], table["ratio"], strict=True)):
        look = styles[name]
        colour = colours[look.token]
        (point,) = panel.plot(
            costs[index],
            scores[index],
            marker=look.marker,
            markersize=6.8 if look.highlighted else 5.5,
            markerfacecolor=theme.surface if look.hollow else colour,
            markeredgecolor=colour if look.hollow else theme.surface,
            markeredgewidth=1.4 if look.hollow else 0.6,
            linestyle="none",
            zorder=5 if look.highlighted else 4,
            clip_on=False,
        )
        value = number(scores[index], measure)
        say(point, f"{name}, ratio {ratio:g}: {value}; {costs[index]:.1f} % {UNITS[cost]}")
    labels = _Labels(panel, theme, measure.higher_is_better)
    labels.keep_clear(costs, scores, front)
    for name, look in styles.items():
        if look.highlighted:
            labels.write(name, np.flatnonzero(table["press"] == name)[::-1], colours[look.token], bold=True)
    if len(full):
        panel.axhline(full.iloc[0], color=theme.ink, linewidth=1.2, dashes=(5, 3), zorder=2.5)
        labels.write_on_line(FULL_CACHE_LABEL, full.iloc[0])
    names = table["press"].to_numpy()
    for name in dict.fromkeys(names[front]):
        if not styles[name].highlighted:
            labels.write(name, [index for index in front if names[index] == name], theme.ink)


def _set_cost_axis(panel: Axes, costs: np.ndarray, cost: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if cost == HELD:
        # Some presses hold more than the full cache.
        largest = max(100.0, float(costs.max(initial=0.0)))
        panel.set_xlim(0, 1.03 * largest)
        if largest < 101:
            panel.set_xticks([0, 25, 50, 75, 100])
        return
    if len(costs) and costs.min() > 0 and costs.max() / costs.min() > 30:
        panel.set_xscale("log")
        panel.set_xlim(costs.min() / 1.25, costs.max() * 1.25)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        return
    largest = float(costs.max(initial=0.0)) or 1.0
    panel.set_xlim(-0.03 * largest, 1.06 * largest)


class _Labels:
    """Write names into a panel where they cover neither points, nor the front, nor each other."""

    def __init__(self, panel: Axes, theme: Theme, upwards: bool) -> None:
        self.panel = panel
        self.theme = theme
        self.upwards = upwards
        self.taken: list[Rectangle] = []
        self.points = np.empty((0, 2))

    def keep_clear(self, costs: np.ndarray, scores: np.ndarray, front: list[int]) -> None:
        """Avoid points and the steps of the front."""
        self.points = self._in_points(costs, scores)
        self.taken += [(x - 4, y - 4, x + 4, y + 4) for x, y in self.points]
        for (x, y), (next_x, next_y) in pairwise(self.points[front]):
            self.taken.append((x, y - 1, next_x, y + 1))
            self.taken.append((next_x - 1, min(y, next_y), next_x + 1, max(y, next_y)))

    def write(self, label: str, candidates: Sequence[int] | np.ndarray, colour: str, bold: bool = False) -> None:
        """Label one of the candidate points, the first with enough room."""
        for index in candidates:
            if self._write_at(label, (self.points[index][0], self.points[index][1]), colour, bold):
                return

    def write_on_line(self, label: str, score: float) -> None:
        """Label a horizontal line, at the first position with enough room."""
        height = self._in_points(np.zeros(1), np.array([score]))[0][1]
        self.taken.append((0.0, height - 1, BOX.width, height + 1))
        width = widest([label], TEXT - 0.5)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            if self._write_at(label, (width / 2 + 2 + share * (BOX.width - width - 4), height), self.theme.ink, False):
                return

    def _in_points(self, costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
        to_axes = self.panel.transData + self.panel.transAxes.inverted()
        return to_axes.transform(np.column_stack([costs, scores])) * np.array([BOX.width, BOX.height])

    def _write_at(self, label: str, anchor: tuple[float, float], colour: str, bold: bool) -> bool:
        size = (widest([label], TEXT - 0.5, bold) + 2, TEXT + 1.5)
        spot = place(anchor, size, self.taken, (0.0, 0.0, BOX.width + 14, BOX.height + 6), self.upwards)
        if spot is None:
            return False
        self.taken.append(spot)
        self.panel.text(
            (spot[0] + spot[2]) / 2 / BOX.width,
            (spot[1] + spot[3]) / 2 / BOX.height,
            label,
            transform=self.panel.transAxes,
            ha="center",
            va="center_baseline",
            fontsize=TEXT - 0.5,
            color=colour,
            fontweight="bold" if bold else "normal",
            zorder=6,
        )
        return True


@dataclass(frozen=True)
class _KeyLayout:
    """Layout of the legend: number of lines, width of a column, and its size in points."""

    lines: int
    column: float
    below: float
    beside: float


def _key_layout(names: list[str], used: int) -> _KeyLayout:
    """Place the legend next to a single panel, or below several panels."""
    count, column = len(names) + 1, widest(names) + 32
    if used == 1:
        lines = max(1, int((BOX.height + BOX.bottom) // KEY_HEIGHT))
        return _KeyLayout(lines, column, 0.0, -(-count // lines) * column)
    lines = -(-count // max(1, int((used * BOX.full[0] - BOX.left) // column)))
    return _KeyLayout(lines, column, lines * KEY_HEIGHT + 12, 0.0)


def _draw_key(figure: Figure, styles: dict[str, Look], layout: _KeyLayout, theme: Theme) -> None:
    width, height = figure.get_size_inches() * 72
    area = figure.add_axes((0, 0, 1, 1), facecolor="none")
    area.set(xlim=(0, width), ylim=(0, height))
    area.set_axis_off()
    left = width - layout.beside + 12 if layout.beside else BOX.left
    top = height - BOX.top - 6 if layout.beside else layout.below - KEY_HEIGHT + 5
    spots = [
        (left + i // layout.lines * layout.column, top - i % layout.lines * KEY_HEIGHT) for i in range(len(styles) + 1)
    ]
    for (x, y), (name, look) in zip(spots, styles.items(), strict=False):
        colour = theme.tokens()[look.token]
        face = theme.surface if look.hollow else colour
        area.plot(x, y, marker=look.marker, markersize=6, color=colour, markerfacecolor=face, markeredgewidth=1.3)
        area.text(x + 9, y, name, va="center_baseline", fontsize=TEXT - 0.5, color=theme.ink)
    if any(look.hollow for look in styles.values()):
        x, y = spots[-1]
        area.text(x - 3, y, "hollow: masked", va="center_baseline", fontsize=TEXT - 0.5, color=theme.muted)
