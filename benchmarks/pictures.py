"""Figures of the tables in benchmarks/results: one panel per operation, or per length and measure.

python -m benchmarks.pictures [TABLE.csv ...]
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.kernels.machine import ROOT
from evaluation.files import write_whole
from evaluation.report.figures.canvas import TEXT, Box, grid, settings, style_axes, to_png, widest
from evaluation.report.theme import THEMES, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = ("kernel", "reference", "MoERouterPress", "PiKVPress", "AdaKV over MoERouterPress")
MEASURES = {
    "prefill_s": "seconds of prefill",
    "peak_gib": "GiB at the peak",
    "tokens_per_s": "tokens/s, decoding",
    "largest_batch": "largest batch that fits",
}


@dataclass(frozen=True)
class Panel:
    """A title, and bars: label, value, and text to show instead of a value."""

    title: str
    bars: list[tuple[str, float | None, str]]


def main(
    tables: Annotated[list[Path] | None, typer.Argument(help="Default: all in benchmarks/results.")] = None,
) -> None:
    """Draw tables for light and dark backgrounds, in the folders of the tables."""
    for table in tables or sorted((ROOT / "benchmarks" / "results").glob("*.csv")):
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise typer.BadParameter(f"{table} has no rows: run the benchmark before drawing it")
        panels = list(_operations(rows) if "operation" in rows[0] else _lengths(rows))
        for theme in THEMES:
            picture = table.with_name(f"{table.stem}-{theme.name}.png")
            write_whole(picture, to_png(draw(panels, theme)))
            typer.echo(picture)


def draw(panels: Sequence[Panel], theme: Theme, columns: int = 3) -> Figure:
    """Return a figure with one bar chart per panel."""
    labels = [label for panel in panels for label, _, _ in panel.bars]
    most = max(len(panel.bars) for panel in panels)
    width = max(150.0, widest([panel.title for panel in panels], TEXT + 1, bold=True) - 60.0)
    box = Box(width=width, height=16.0 * most, left=widest(labels, TEXT - 1) + 12, right=64.0, bottom=14.0)
    with settings():
        figure, axes = grid(len(panels), columns, box, theme)
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(axis, panel, most, theme)
        return figure


def _draw_panel(axis: Axes, panel: Panel, most: int, theme: Theme) -> None:
    style_axes(axis, theme, panel.title)
    axis.grid(False)
    axis.set(ylim=(most - 0.5, -0.5), xlim=(0, max([value or 0.0 for _, value, _ in panel.bars]) or 1.0), xticks=[])
    axis.set_yticks(range(len(panel.bars)), [label for label, _, _ in panel.bars], fontsize=TEXT - 1)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for place, (label, value, instead) in enumerate(panel.bars):
        colour = theme.accents[0] if label.startswith(OURS) else theme.series[-1]
        axis.barh(place, value or 0.0, height=0.7, color=colour)
        said = instead if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        axis.annotate(
            said, (value or 0.0, place), (4, 0), textcoords="offset points", va="center", fontsize=TEXT - 1.5,
            color=theme.ink,
        )  # fmt: skip


def _operations(rows: Sequence[dict[str, str]]) -> Iterator[Panel]:
    for operation, shape in dict.fromkeys((row["operation"], row["shape"]) for row in rows):
        mine = [row for row in rows if (row["operation"], row["shape"]) == (operation, shape)]
        bars = [(row["way"], _number(row["median_ms"]), row.get("failed") or "wrong") for row in mine]
        sizes = dict(part.split("=") for part in shape.split())
        length = sizes.get("tokens") if int(sizes.get("tokens", 0)) > 1 else sizes.get("entries")
        yield Panel(f"{operation}, {int(length or 0):,} keys, ms", bars)


def _lengths(rows: Sequence[dict[str, str]]) -> Iterator[Panel]:
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        for measure, title in MEASURES.items():
            mine = [row for row in rows if row["tokens"] == tokens]
            bars = [(row["contender"], _number(row[measure]), "does not fit") for row in mine]
            yield Panel(f"{int(tokens):,} tokens: {title}", bars)


def _number(text: str) -> float | None:
    return float(text) if text else None


if __name__ == "__main__":
    typer.run(main)
