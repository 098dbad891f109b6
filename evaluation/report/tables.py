"""Tables as rows of texts, shared by the Markdown file and the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.report.format import MISSING, difference_interval, interval, number, percent, signed
from evaluation.report.summary import Group, Summary
from evaluation.schema import FULL_CACHE, Measure


@dataclass(frozen=True)
class Value:
    """A number, its interval, and a remark."""

    text: str
    interval: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class TableRow:
    """A press with its values and bytes held, both in the order of the ratios."""

    label: str
    tags: list[str]
    highlighted: bool
    values: list[Value]
    held: list[str]


@dataclass(frozen=True)
class Glance:
    """One group at its middle ratio: rows for the full cache, the best presses and those of this project.

    Values of a row are the mean and the difference from the best other press.
    """

    title: str
    ratio: float
    measure: Measure
    rows: list[TableRow]


def score_rows(summary: Summary, group: Group, measure: Measure) -> list[TableRow]:
    """Return one row per press, the full cache first."""
    table = summary.of(group, measure)
    ratios = summary.ratios(group)
    winners = {ratio: best_presses(table, ratio, measure) for ratio in ratios}
    rows = []
    full = summary.full_cache(group, measure)
    if full is not None:
        value = _stated(full, measure)
        rows.append(TableRow(summary.label(FULL_CACHE), [], False, [value] * len(ratios), ["100"] * len(ratios)))
    for press in summary.presses:
        cells = table[table["press"] == press].set_index("ratio")
        if cells.empty:
            continue
        values = [_value(cells, ratio, measure, press in winners[ratio]) for ratio in ratios]
        held = [percent(cells.loc[ratio, "held_percent"]) if ratio in cells.index else MISSING for ratio in ratios]
        rows.append(TableRow(summary.label(press), tags(summary, press), press in summary.highlighted, values, held))
    return rows


def pair_rows(summary: Summary, group: Group) -> list[TableRow]:
    """Return each press's difference from the best other press."""
    measure = group.benchmark.main
    table = summary.of(group)
    rows = []
    for press in summary.presses:
        cells = table[table["press"] == press].set_index("ratio")
        if cells.empty or cells["best_other"].isna().all():
            continue
        values = [_difference(summary, cells, ratio, measure) for ratio in summary.ratios(group)]
        rows.append(TableRow(summary.label(press), tags(summary, press), press in summary.highlighted, values, []))
    return rows


def glances(summary: Summary) -> list[Glance]:
    """Return the summary at the top of the report."""
    answer = []
    for group in summary.groups:
        measure = group.benchmark.main
        ratio = summary.middle_ratio(group)
        table = summary.of(group)
        at_ratio = table[table["ratio"] == ratio].set_index("press")
        winners = best_presses(table, ratio, measure)
        if not winners:
            continue
        rows = []
        full = summary.full_cache(group)
        if full is not None:
            rows.append(TableRow(summary.label(FULL_CACHE), [], False, [_stated(full, measure), Value("")], ["100"]))
        special = [press for press in summary.highlighted if press in at_ratio.index]
        for press in [*(press for press in winners if press not in special), *special]:
            cells = table[table["press"] == press].set_index("ratio")
            value = _value(cells, ratio, measure, press in winners)
            values = [value, _difference(summary, cells, ratio, measure)]
            held = [percent(at_ratio.loc[press, "held_percent"])]
            rows.append(TableRow(summary.label(press), tags(summary, press), press in special, values, held))
        answer.append(Glance(group.title, ratio, measure, rows))
    return answer


def best_presses(table: pd.DataFrame, ratio: float, measure: Measure) -> list[str]:
    """Return the presses with the best mean at a ratio (several if they tie) among those run on all samples."""
    rows = table[(table["ratio"] == ratio) & (table["press"] != FULL_CACHE) & table["complete"].astype(bool)]
    means = rows.set_index("press")["mean"].dropna()
    if means.empty:
        return []
    top = means.max() if measure.higher_is_better else means.min()
    return [str(press) for press in means.index[np.isclose(means, top, rtol=1e-9, atol=1e-12)]]


def tags(summary: Summary, press: str) -> list[str]:
    """Return remarks that are needed to compare a press with others."""
    unit = next(entry.unit for entry in summary.study.presses if entry.name == press)
    answer = ["masked: bytes still held"] if press in summary.masked else []
    return [*answer, f"ratio = share of {unit} removed"] if unit not in (None, "", "tokens") else answer


def markdown_scores(summary: Summary, group: Group, measure: Measure) -> str:
    """Return the table of scores."""
    ratios = summary.ratios(group)
    head = ["press", *(f"ratio {ratio:g}" for ratio in ratios), *(f"bytes held at {ratio:g}, %" for ratio in ratios)]
    return _markdown(
        head, [[_name(row), *map(_in_markdown, row.values), *row.held] for row in score_rows(summary, group, measure)]
    )


def markdown_pairs(summary: Summary, group: Group, highlighted: bool = False) -> str:
    """Return the table of differences, for all presses or only for those of this project."""
    rows = [row for row in pair_rows(summary, group) if row.highlighted or not highlighted]
    head = ["press", *(f"ratio {ratio:g}" for ratio in summary.ratios(group))]
    return _markdown(head, [[_name(row), *map(_in_markdown, row.values)] for row in rows])


def markdown_glances(summary: Summary) -> str:
    """Return the tables at the top, one per benchmark and length, with one row per press."""
    parts = []
    for glance in glances(summary):
        head = ["press", glance.measure.label, "against the best other press", "bytes held, %"]
        better = "higher" if glance.measure.higher_is_better else "lower"
        parts.append(f"**{glance.title}**, ratio {glance.ratio:g}; {better} is better.")
        rows = [[_name(row), *map(_in_markdown, row.values), *row.held] for row in glance.rows]
        parts.append(_markdown(head, rows))
    return "\n\n".join(parts)


def csv(summary: Summary) -> str:
    """Return every number of the report, one row per benchmark, length, measure, task, press and ratio."""
    table = summary.table.copy()
    table["length"] = table["length"].where(table["length"] > 0).astype("Int64")
    table["samples"] = table["samples"].astype("Int64")
    units = {press.name: press.unit for press in summary.study.presses}
    table.insert(table.columns.get_loc("ratio") + 1, "ratio_of", table["press"].map(units).fillna("tokens"))
    return table.to_csv(index=False, float_format="%.6g")


def _value(cells: pd.DataFrame, ratio: float, measure: Measure, winner: bool) -> Value:
    if ratio not in cells.index or math.isnan(cells.loc[ratio, "mean"]):
        return Value(MISSING)
    return _stated(cells.loc[ratio], measure, winner)


def _stated(row: pd.Series, measure: Measure, winner: bool = False) -> Value:
    """Return a mean, with its number of samples if that differs from others."""
    note = "" if row["complete"] else f"over {row['samples']:.0f} samples"
    return Value(number(row["mean"], measure), interval(row, measure), note, winner)


def _difference(summary: Summary, cells: pd.DataFrame, ratio: float, measure: Measure) -> Value:
    if ratio not in cells.index or pd.isna(cells.loc[ratio, "best_other"]):
        return Value(MISSING)
    row = cells.loc[ratio]
    link = "from" if row["verdict"] == "not distinguishable" else "than"
    note = f"{row['verdict']} {link} {_marked(summary, row['best_other'])}"
    return Value(signed(row["difference"], measure), difference_interval(row, measure), note)


def _marked(summary: Summary, press: str) -> str:
    """Return a press's name, marked if it only masks: such a press holds more bytes than others at its ratio."""
    return f"{summary.label(press)} (masked)" if press in summary.masked else summary.label(press)


def _name(row: TableRow) -> str:
    name = f"**{row.label}**" if row.highlighted else row.label
    return name + "".join(f" ({tag})" for tag in row.tags)


def _in_markdown(value: Value) -> str:
    text = f"**{value.text}**" if value.best else value.text
    text += f" ({value.interval})" if value.interval else ""
    return f"{text} {value.note}" if value.note else text


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
