"""Tables as rows of strings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.report.load import load
from evaluation.report.summary import Summary, summarise
from evaluation.report.tables import best_presses, glances, markdown_glances, pair_rows, score_rows
from evaluation.schema import Measure
from tests.evaluation.report.made_up import PRESSES, WRITTEN_LENGTHS, WRITTEN_RATIOS, lines_of, small_study


def test_a_sample_that_only_the_full_cache_has_seen_spoils_nothing(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study", benchmarks=("ruler",)) / "samples-ruler.jsonl"
    path.write_text("".join(lines_of(path)[:-8]))
    summary = summarise(load([tmp_path / "study"]))
    assert summary.study.notes == ["incomplete: 7 of 8 samples have results of every press and ratio."]
    group = summary.groups[0]
    rows = score_rows(summary, group, group.benchmark.main)
    assert [value.note for value in rows[0].values] == ["over 8 samples"] * 2
    assert not any(value.note for row in rows[1:] for value in row.values)
    assert len(glances(summary)) == 1


def test_lower_is_better_is_kept_in_mind(summary: Summary) -> None:
    group = summary.groups[1]
    table = summary.of(group)
    at_half = table[table["ratio"] == 0.5].set_index("press")["mean"]
    bold = [row.label for row in score_rows(summary, group, group.benchmark.main) if row.values[1].best]
    assert bold == [at_half.idxmin()]
    worst = next(row for row in pair_rows(summary, group) if row.label == at_half.idxmax())
    assert worst.values[1].text.startswith("+")
    assert worst.values[1].note.startswith("worse than")


def test_all_presses_that_tie_for_the_best_mean_are_named() -> None:
    measure = Measure("found", "found (%)", True)
    table = pd.DataFrame(
        {
            "press": ["no_press", "a", "b", "c", "d"],
            "ratio": [0.0, 0.5, 0.5, 0.5, 0.5],
            "mean": [99.0, 70.0, 0.7 * 100, 60.0, 90.0],
            "complete": [True, True, True, True, False],
        }
    )
    assert best_presses(table, 0.5, measure) == ["a", "b"]
    assert best_presses(table, 0.75, measure) == []


def test_masked_presses_hold_all_bytes_and_are_marked(summary: Summary) -> None:
    rows = {row.label: row for row in score_rows(summary, summary.groups[0], summary.groups[0].benchmark.main)}
    assert rows["adakv_compactor"].tags == ["masked: bytes still held"]
    assert rows["adakv_compactor"].held == ["100", "100"]
    assert rows["snapkv"].held == ["75", "50"]
    assert rows["think"].tags == ["ratio = share of channels removed"]
    assert rows["full cache"].held == ["100", "100"]


def test_glance_is_taken_at_one_half(summary: Summary) -> None:
    assert {glance.ratio for glance in glances(summary)} == {0.5}
    assert [row.label for row in glances(summary)[0].rows if row.highlighted] == ["moe_router"]


def test_a_glance_has_presses_down_and_the_best_bold(summary: Summary) -> None:
    for group, glance in zip(summary.groups, glances(summary), strict=True):
        table = summary.of(group)
        winners = best_presses(table, 0.5, group.benchmark.main)
        assert glance.rows[0].label == "full cache"
        assert {row.label for row in glance.rows} == {"full cache", "moe_router", *winners}
        assert [row.label for row in glance.rows if row.values[0].best] == winners
    text = markdown_glances(summary)
    assert all(line.count("|") == 5 for line in text.splitlines() if line.startswith("|"))
    assert "**ruler-11, 512 tokens**, ratio 0.5; higher is better." in text


def test_csv_has_every_number(written: dict[str, Path]) -> None:
    table = pd.read_csv(written["report.csv"])
    keys = ["benchmark", "length", "measure", "task", "press", "ratio"]
    assert not table.duplicated(keys).any()
    ruler = table[(table["benchmark"] == "ruler") & (table["task"] == "all")]
    assert len(ruler) == len(WRITTEN_LENGTHS) * (1 + len(PRESSES) * len(WRITTEN_RATIOS))
    assert ((ruler["low"] <= ruler["mean"]) & (ruler["mean"] <= ruler["high"])).all()
