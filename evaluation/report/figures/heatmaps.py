"""Heat maps: task x press, and the needle's depth x length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.report.figures.canvas import TEXT, Box, grid, settings, widest
from evaluation.report.heat import Heat, depth_heat, task_heat
from evaluation.report.summary import Group, Summary
from evaluation.report.theme import FOUND, Anchors, Theme, blend, text_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_WIDTH, CELL_HEIGHT = 38.0, 19.0
# Sets the full cache's row and the mean's column apart, in cells.
GAP = 0.25


def draw_task_heat(summary: Summary, group: Group, ratio: float, theme: Theme) -> Figure:
    """Return the heat map of one group at one ratio: presses down, tasks across."""
    heat = task_heat(summary, group, ratio)
    names = max(widest(heat.rows), widest(summary.highlighted_labels, bold=True))
    # Task names are rotated by 45 degrees.
    slanted = 0.71 * widest(heat.columns, TEXT - 0.5)
    box = Box(
        width=CELL_WIDTH * (len(heat.columns) + GAP),
        height=CELL_HEIGHT * (len(heat.rows) + GAP),
        left=names + 12,
        right=max(20.0, slanted - CELL_WIDTH / 2),
        top=slanted + 42,
        bottom=14.0,
    )
    with settings():
        figure, (panel,) = grid(1, 1, box, theme)
        across = [i + GAP * (name == "mean") for i, name in enumerate(heat.columns)]
        down = [i + GAP * (heat.rows[0] == "full cache" and i > 0) for i in range(len(heat.rows))]
        _draw_cells(panel, heat, theme, theme.ramp, across, down)
        panel.xaxis.tick_top()
        panel.set_xticks([x + 0.5 for x in across], heat.columns, rotation=45, ha="left", rotation_mode="anchor")
        panel.set_yticks([y + 0.5 for y in down], heat.rows)
        _quiet(panel, theme, set(summary.highlighted_labels), heat)
        figure.text(
            12 / box.full[0],
            1 - 16 / box.full[1],
            f"{group.title}, ratio {ratio:g}: {group.benchmark.main.label}",
            color=theme.ink,
            fontsize=TEXT + 1,
            fontweight="bold",
        )
        return figure


def draw_depth_heat(summary: Summary, groups: list[Group], ratio: float, theme: Theme, columns: int = 5) -> Figure:
    """Return one panel per press: depth of the needle down, length across."""
    heats = depth_heat(summary, groups, ratio)
    first = next(iter(heats.values()))
    box = Box(
        width=max(120.0, 34.0 * len(first.columns)), height=11.5 * len(first.rows), left=34.0, top=24.0, bottom=18.0
    )
    with settings():
        figure, panels = grid(len(heats), columns, box, theme, above=30.0)
        for panel, (name, heat) in zip(panels, heats.items(), strict=True):
            across, down = list(map(float, range(len(heat.columns)))), list(map(float, range(len(heat.rows))))
            _draw_cells(panel, heat, theme, FOUND, across, down, written=False)
            panel.set_xticks([i + 0.5 for i in range(len(heat.columns))], heat.columns)
            step = 2 if len(heat.rows) > 6 else 1
            places = list(range(0, len(heat.rows), step))
            panel.set_yticks([i + 0.5 for i in places], [heat.rows[i] for i in places])
            _quiet(panel, theme, set(), heat)
            special = name in summary.highlighted_labels
            panel.set_title(
                name,
                loc="left",
                fontsize=TEXT,
                pad=5,
                color=theme.accents[0] if special else theme.ink,
                fontweight="bold" if special else "normal",
            )
        _draw_scale(figure, ratio, theme)
        return figure


def _draw_cells(
    panel: Axes, heat: Heat, theme: Theme, ramp: Anchors, across: list[float], down: list[float], written: bool = True
) -> None:
    """Draw cells whose left and upper edges are at `across` and `down`, one cell being 1 wide and high."""
    from matplotlib.patches import Rectangle

    panel.set_xlim(0, across[-1] + 1)
    panel.set_ylim(down[-1] + 1, 0)
    for row, cells in zip(down, heat.cells, strict=True):
        for column, cell in zip(across, cells, strict=True):
            colour = theme.line if cell.position is None else blend(ramp, cell.position)
            panel.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor=theme.surface, linewidth=1.2))
            if written:
                panel.text(
                    column + 0.5,
                    row + 0.5,
                    cell.text,
                    ha="center",
                    va="center_baseline",
                    fontsize=TEXT - 1.5,
                    color=text_on(colour),
                )


def _quiet(panel: Axes, theme: Theme, highlighted: set[str], heat: Heat) -> None:
    panel.tick_params(length=0, labelsize=TEXT - 0.5, colors=theme.ink, pad=3)
    for spine in panel.spines.values():
        spine.set_visible(False)
    for label in panel.get_yticklabels():
        if label.get_text() in highlighted:
            label.set_color(theme.accents[0])
            label.set_fontweight("bold")


def _draw_scale(figure: Figure, ratio: float, theme: Theme) -> None:
    """Write the heading and the colours' scale above the panels."""
    width, height = figure.get_size_inches() * 72
    title = f"Needle found, ratio {ratio:g}"
    figure.text(12 / width, 1 - 20 / height, title, color=theme.ink, fontsize=TEXT + 1, fontweight="bold")
    axes = "depth in % (down), length in tokens (across)"
    figure.text(170 / width, 1 - 20 / height, axes, color=theme.muted, fontsize=TEXT)
    area = figure.add_axes((1 - 150 / width, 1 - 20 / height, 90 / width, 9 / height))
    area.imshow([[i / 99 for i in range(100)]], aspect="auto", cmap=_colour_map(FOUND))
    area.set_axis_off()
    area.text(-0.05, 0.5, "0 %", transform=area.transAxes, ha="right", va="center_baseline", color=theme.muted)
    area.text(1.05, 0.5, "100 %", transform=area.transAxes, ha="left", va="center_baseline", color=theme.muted)


def _colour_map(anchors: Anchors):
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("found", list(anchors))
