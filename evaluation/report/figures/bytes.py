"""Score against bytes, as shares of a cache in 16 bits: one line per press, fewer bytes to the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from evaluation.report.figures.canvas import TEXT, Box, grid, settings, style_axes, widest
from evaluation.report.figures.curves import (
    BAND,
    GAP,
    LEADER,
    by_label,
    draw_line,
    label_ends,
    on_log_axis,
    score_limits,
    set_score_axis,
)
from evaluation.report.summary import Group, Summary
from evaluation.report.theme import Theme, looks
from evaluation.schema import FULL_CACHE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = "share_of_16_bits"


def spends_bytes(summary: Summary) -> bool:
    """Return whether any press has a budget in bytes."""
    return any(press.unit == "bytes" for press in summary.study.presses)


def draw_bytes(summary: Summary, groups: Sequence[Group], theme: Theme, columns: int = 3) -> Figure:
    """Return one panel per group, without presses that mask, since they free no memory."""
    styles = looks(summary.presses, summary.highlighted, summary.masked)
    shown = [name for name in summary.presses if name not in summary.masked]
    labels = [summary.label(name) for name in shown]
    names = max(widest(labels, TEXT - 0.5), widest(summary.highlighted_labels, TEXT - 0.5, bold=True))
    box = Box(width=260.0, right=LEADER + 8 + names, height=max(200.0, len(shown) * GAP + 8))
    tables = [_points(summary, group, shown) for group in groups]
    measure = groups[0].benchmark.main
    limits = score_limits(tables, measure, summary.highlighted)
    colours = theme.tokens()
    band = BAND / max(1, sum(styles[name].highlighted for name in shown))
    with settings():
        figure, panels = grid(len(groups), columns, box, theme)
        for panel, group, table in zip(panels, groups, tables, strict=True):
            style_axes(panel, theme, group.title)
            set_score_axis(panel, measure, limits)
            panel.set_xscale("log", base=2)
            steps = range(math.ceil(-math.log2(table[SHARE].min()) - 0.1) + 1)
            panel.set_xlim(1.1 * table[SHARE].max(), 0.93 * table[SHARE].min())
            panel.set_xticks([2.0**-step for step in steps], [f"1/{2**step}" if step else "1" for step in steps])
            panel.set_xlabel("bytes held, of a full cache in 16 bits", fontsize=TEXT - 0.5)
            ends = []
            for name in shown:
                line = table[table["press"] == name].sort_values(SHARE, ascending=False)
                if len(line):
                    draw_line(panel, line, styles[name], colours[styles[name].token], theme, band, SHARE)
                    ends.append((summary.label(name), line[SHARE].iloc[-1], line["mean"].iloc[-1]))
            label_ends(panel, ends, by_label(summary, styles), theme, box)
        return figure


def _points(summary: Summary, group: Group, presses: Sequence[str]) -> pd.DataFrame:
    """Return the results of some presses with the share of bytes that they hold.

    Numbers stored in the model's dtype would take half of their bytes in 16 bits if that dtype has 32 bits; numbers
    packed by a codec would take the same.
    """
    table = summary.of(group)
    table = table[table["press"].isin(list(presses)) & (table["press"] != FULL_CACHE)]
    if on_log_axis(group.benchmark.main):
        table = table[table["mean"] > 0]
    packed = {press.name for press in summary.study.presses if press.unit == "bytes"}
    wide = 2.0 if "float32" in str(summary.study.facts["machine"]) else 1.0
    factor = table["press"].isin(packed).map({True: wide, False: 1.0})
    return table.assign(**{SHARE: table["held_percent"] / 100 * factor})
