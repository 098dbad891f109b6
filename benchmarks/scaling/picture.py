"""A picture of the time of a step over the number of ranks, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.report.figures.canvas import TEXT, Box, grid, settings, style_axes
from evaluation.report.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """Milliseconds of a step for each number of ranks, and whether each fits into memory.

    Attributes
    ----------
    label : str
        What is cached, and how ranks exchange attention.
    points : sequence of (int, float, bool)
        Ranks, milliseconds, and whether everything fits.
    """

    label: str
    points: Sequence[tuple[int, float, bool]]


@dataclass(frozen=True)
class Chart:
    """The lines of one model and context."""

    title: str
    lines: Sequence[Line]


def draw(charts: Sequence[Chart], columns: int, theme: Theme) -> Figure:
    """Return a figure with one panel for each chart; points that do not fit into memory are hollow."""
    colours = (theme.ink, theme.accents[0], theme.series[0], theme.series[1])
    box = Box(width=150.0, height=140.0, left=50.0, bottom=34.0)
    with settings():
        figure, panels = grid(len(charts), columns, box, theme, below=44.0)
        for panel, chart in zip(panels, charts, strict=True):
            style_axes(panel, theme, chart.title)
            panel.set(xscale="log", yscale="log", xlabel="ranks", ylabel="ms a token")
            panel.set_xticks([1, 8, 64, 1024], ["1", "8", "64", "1,024"])
            panel.minorticks_off()
            for line, colour in zip(chart.lines, colours, strict=True):
                ranks, times, fits = zip(*line.points, strict=True)
                panel.plot(ranks, times, color=colour, linewidth=1.4, label=line.label)
                for rank, time, whole in zip(ranks, times, fits, strict=True):
                    face = colour if whole else theme.surface
                    panel.plot([rank], [time], "o", markersize=4, color=colour, markerfacecolor=face)
        names = panels[0].get_legend_handles_labels()
        figure.legend(*names, loc="lower center", ncols=2, frameon=False, labelcolor=theme.ink, fontsize=TEXT - 0.5)
        return figure
