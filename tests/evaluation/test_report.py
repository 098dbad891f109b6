"""The report of a study: loading, statistics, and what is written; on a synthetic study."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation.report import report
from evaluation.report.figures.canvas import Box
from evaluation.report.figures.curves import score_limits, tick_labels
from evaluation.report.figures.labels import place, spread
from evaluation.report.load import load, only
from evaluation.report.schema import Measure
from evaluation.report.statistics import (
    bootstrap_means,
    intervals,
    pareto_front,
    pooled_percentile,
    resample_counts,
    verdict,
)
from evaluation.report.summary import Summary, summarise
from evaluation.report.tables import best_presses, glances, pair_rows, score_rows
from evaluation.report.theme import DARK, FOUND, LIGHT, blend, contrast, text_on

RATIOS = [0.25, 0.5, 0.75, 0.9]
LENGTHS = [1024, 2048, 4096]
TASKS = (
    "niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multivalue "
    "niah_multiquery vt cwe fwe qa"
).split()
# Share of the full cache's score that each press loses at ratio 1, the seconds it takes, and whether it masks.
PRESSES = {
    "moe_router": (0.42, 0.22, False),
    "snapkv": (0.55, 0.12, False),
    "pyramidkv": (0.57, 0.13, False),
    "expected_attention": (0.48, 0.31, False),
    "knorm": (0.85, 0.04, False),
    "streaming_llm": (0.9, 0.01, False),
    "random": (0.98, 0.01, False),
    "tova": (0.62, 0.10, False),
    "keydiff": (0.58, 0.06, False),
    "compactor": (0.46, 0.40, False),
    "adakv_compactor": (0.43, 0.45, True),
    "adakv_snapkv": (0.5, 0.19, True),
    "think": (0.7, 0.15, False),
}


def write_study(
    folder: Path,
    presses: list[str] | None = None,
    ratios: list[float] = RATIOS,
    lengths: list[int] = LENGTHS,
    tasks: list[str] = TASKS,
    per_task: int = 8,
    benchmarks: tuple[str, ...] = ("ruler", "fidelity", "needle"),
    **head: Any,
) -> Path:
    """Write a study folder with made-up results that look like real ones."""
    names = presses or list(PRESSES)
    rng = np.random.default_rng(1)
    taste = {(press, task): rng.normal(0, 0.12) for press in names for task in range(12)}
    measures = {
        "ruler": [{"name": "string_match", "label": "score (%)", "higher_is_better": True}],
        "fidelity": [
            {"name": "kl", "label": "KL (nats/token)", "higher_is_better": False},
            {"name": "kl_p95", "label": "KL, 95th percentile (nats/token)", "higher_is_better": False},
            {"name": "top1", "label": "top-1 agreement (%)", "higher_is_better": True},
            {"name": "log_perplexity_ratio", "label": "log perplexity ratio", "higher_is_better": False},
        ],
        "needle": [{"name": "found", "label": "found (%)", "higher_is_better": True}],
    }
    labels = {"ruler": "ruler-11", "fidelity": "fidelity", "needle": "needle"}
    folder.mkdir(parents=True, exist_ok=True)
    study = {
        "command": "python -m evaluation run --benchmark ruler --benchmark fidelity --benchmark needle --seed 0",
        "date": "2026-11-22",
        "model": "Qwen/Qwen3-0.6B",
        "seed": 0,
        "query_aware": False,
        "commit": "f9fdfcf",
        "versions": {
            "pikvpress": "0.1.0",
            "kvpress": "0.5.5",
            "transformers": "5.2.0",
            "torch": "2.13.0",
            "python": "3.11",
        },
        "machine": {"device": "cpu", "dtype": "bfloat16", "cpus": 2},
        "benchmarks": [{"name": n, "label": labels[n], "measures": measures[n]} for n in benchmarks],
        "presses": [
            {"name": n, "unit": "channels" if n == "think" else "tokens", "masks": PRESSES[n][2]} for n in names
        ],
        "ratios": ratios,
        **head,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    for benchmark in benchmarks:
        with (folder / f"samples-{benchmark}.jsonl").open("w") as stream:
            for length in [None] if benchmark == "fidelity" else lengths:
                own = {"ruler": tasks, "fidelity": ["books", "code", "wiki"]}.get(
                    benchmark, [f"depth_{depth:03d}" for depth in range(0, 101, 10)]
                )
                for task_index, task in enumerate(own):
                    for number in range(5 if benchmark == "needle" else per_task):
                        hard = rng.random()
                        for press, ratio in [("no_press", 0.0), *((p, r) for p in names for r in ratios)]:
                            loss, seconds, masks = PRESSES.get(press, (0.0, 0.0, False))
                            loss = max(0.02, loss + taste.get((press, task_index), 0.0)) * (1.1 - 0.1 * ratio)
                            line = _line(rng, benchmark, length, task_index, ratio, loss, hard)
                            tokens = length or 512
                            line |= {
                                "benchmark": benchmark,
                                "length": length,
                                "task": task,
                                "sample": f"{task}-{number}",
                                "press": press,
                                "ratio": ratio,
                                "prediction": "",
                                "context_tokens": tokens,
                                "tokens_kept": tokens * (1 - ratio),
                                "bytes_full": tokens * 1024,
                                "bytes_held": int(tokens * 1024 * (1 if masks else 1 - ratio)),
                                "masked": masks,
                                "prefill_seconds": tokens / 1000,
                                "press_seconds": seconds * tokens / 1000 * (1 + 0.2 * ratio),
                            }
                            stream.write(json.dumps(line) + "\n")
    return folder


def _line(
    rng: np.random.Generator, benchmark: str, length: int | None, task: int, ratio: float, loss: float, hard: float
) -> dict[str, Any]:
    if benchmark == "fidelity":
        tokens = rng.gamma(0.7, 0.02 + 4 * loss * ratio**3, size=40) * (ratio > 0)
        return {
            "measures": {
                "kl": float(tokens.mean()),
                "top1": float(100 * np.exp(-tokens.mean())),
                "log_perplexity_ratio": float(0.6 * tokens.mean() * (0.7 + 0.6 * hard)),
            },
            "token_kl": [round(float(value), 4) for value in tokens],
        }
    chance = (0.97 - 0.03 * task) * (1 - loss * ratio ** (2.2 + 0.1 * task)) - 0.00002 * (length or 0)
    return {
        "measures": {"string_match" if benchmark == "ruler" else "found": 100.0 * (hard < chance + rng.normal(0, 0.03))}
    }


def small_study(folder: Path, **changes: Any) -> Path:
    """Write a study that is quick to report."""
    settings: dict[str, Any] = {
        "presses": ["moe_router", "snapkv", "adakv_compactor", "think"],
        "ratios": [0.25, 0.5],
        "lengths": [512],
        "tasks": ["vt", "cwe"],
        "per_task": 4,
        "benchmarks": ("ruler", "fidelity"),
    }
    return write_study(folder, **(settings | changes))


# Half of a whole study, which would take long to draw.
WRITTEN_RATIOS, WRITTEN_LENGTHS = [0.5, 0.875], [1024, 4096]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the files of the report of a study with all presses and benchmarks, by name."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_study(folder / "study", ratios=WRITTEN_RATIOS, lengths=WRITTEN_LENGTHS, per_task=2)
    return {path.name: path for path in report([study], folder / "report")}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summarise(load([small_study(tmp_path_factory.mktemp("small"))]))


# Statistics


def test_a_press_without_a_ratio_stands_at_the_share_that_it_removed(tmp_path):
    folder = small_study(tmp_path / "study", benchmarks=("ruler",))
    file, head = folder / "samples-ruler.jsonl", yaml.safe_load((folder / "study.yaml").read_text())
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    full = [line for line in lines if line["press"] == "no_press"]
    own = {"press": "kvzap_mlp@threshold=-4", "ratio": None, "masked": True}
    lines += [line | own | {"tokens_kept": line["context_tokens"] * 0.4} for line in full]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    head["presses"].append({"name": own["press"], "unit": "", "masks": True})
    (folder / "study.yaml").write_text(yaml.safe_dump(head))
    rows = load([folder]).rows
    assert set(rows.loc[rows["press"] == own["press"], "ratio"]) == {0.6}
    report([folder], tmp_path / "out")
    assert "instead of a ratio stands" in (tmp_path / "out/report.md").read_text()


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    answer = intervals(pd.DataFrame({"a": [5.0, 5.0, 5.0, 5.0]}), pd.Series(list("xxyy")))
    assert answer.loc["a"].tolist() == pytest.approx([5.0, 5.0, 5.0, 4.0])


def test_resampling_keeps_every_stratum_at_its_size() -> None:
    counts = resample_counts(["a", "b", "a", "b", "b"], 500, np.random.default_rng(0))
    assert (counts[:, [0, 2]].sum(axis=1) == 2).all()
    assert (counts[:, [1, 3, 4]].sum(axis=1) == 3).all()
    assert counts[:, 0].mean() == pytest.approx(1.0, abs=0.1)


def test_strata_of_one_sample_are_drawn_from_together() -> None:
    counts = resample_counts(["a", "b", "c", "d", "d"], 500, np.random.default_rng(0))
    assert (counts[:, :3].sum(axis=1) == 3).all() and (counts[:, 3:].sum(axis=1) == 2).all()
    assert counts[:, 0].std() > 0.5


def test_differences_between_tasks_do_not_widen_a_stratified_interval() -> None:
    table = pd.DataFrame({"score": [0.0] * 10 + [100.0] * 10})
    apart = intervals(table, pd.Series(["easy"] * 10 + ["hard"] * 10)).loc["score"]
    together = intervals(table, pd.Series(["one"] * 20)).loc["score"]
    assert (apart["low"], apart["high"]) == (50.0, 50.0)
    assert together["high"] - together["low"] > 30


def test_interval_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, size=400)
    row = intervals(pd.DataFrame({"a": values}), pd.Series(["t"] * 400)).loc["a"]
    half = 1.96 * values.std() / 20
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    draws = rng.exponential(1.0, size=(60, 200))
    means = bootstrap_means(draws, ["t"] * 60, resamples=1000)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    assert 0.87 < ((low <= 1.0) & (high >= 1.0)).mean() <= 0.99


def test_columns_share_their_draws_and_seeds_repeat() -> None:
    values = np.random.default_rng(5).normal(size=(30, 1))
    means = bootstrap_means(np.hstack([values, values + 2.0]), ["t"] * 30, resamples=50)
    assert np.allclose(means[:, 1] - means[:, 0], 2.0)
    assert np.array_equal(means, bootstrap_means(np.hstack([values, values + 2.0]), ["t"] * 30, resamples=50))


def test_a_missing_sample_is_left_out_of_its_own_column_only() -> None:
    answer = intervals(pd.DataFrame({"a": [1.0, 2.0, 6.0], "b": [1.0, 2.0, np.nan]}), pd.Series(list("ttt")))
    assert answer["mean"].tolist() == [3.0, 1.5]
    assert answer["samples"].tolist() == [3, 2]


@pytest.mark.parametrize(
    ("low", "high", "higher", "said"),
    [
        (0.1, 2.0, True, "better"),
        (0.1, 2.0, False, "worse"),
        (-2.0, -0.1, False, "better"),
        (-2.0, -0.1, True, "worse"),
        (-1.0, 1.0, True, "not distinguishable"),
        (0.0, 1.0, True, "not distinguishable"),
    ],
)
def test_verdict(low: float, high: float, higher: bool, said: str) -> None:
    assert verdict(low, high, higher) == said


def test_percentile_pools_tokens_not_samples() -> None:
    assert pooled_percentile([np.arange(0.0, 91.0), np.arange(91.0, 101.0)], 95) == 95.0


def test_pareto_front() -> None:
    cost, score = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([5.0, 7.0, 9.0, 8.0, 10.0])
    assert pareto_front(cost, score, higher_is_better=True) == [0, 2, 4]
    assert pareto_front(cost, score, higher_is_better=False) == [0]


# Labels and colours


def test_spread_labels_keep_order_gap_and_bounds() -> None:
    wanted = [50.0, 51.0, 50.5, 0.0, 99.0]
    places = spread(wanted, 10.0, 0.0, 100.0)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 10.0 - 1e-9
    assert np.argsort(places).tolist() == np.argsort(wanted).tolist()
    assert ordered[0] >= 0.0 and ordered[-1] <= 100.0
    assert places[2] == pytest.approx(50.5)


def test_a_label_finds_free_room_or_none() -> None:
    spot = place((50.0, 50.0), (20.0, 10.0), [(0.0, 50.0, 100.0, 100.0)], (0.0, 0.0, 100.0, 100.0))
    assert spot is not None and spot[3] <= 50.0
    assert place((50.0, 50.0), (20.0, 10.0), [(0.0, 0.0, 100.0, 100.0)], (0.0, 0.0, 100.0, 100.0)) is None


def test_tick_labels_do_not_touch() -> None:
    assert tick_labels([0.1, 0.5, 0.9], Box()) == ["0.1", "0.5", "0.9"]
    assert tick_labels([0.25, 0.5, 0.75, 0.8, 0.9], Box()) == ["0.25", "0.5", "", "0.8", "0.9"]
    assert tick_labels([0.5], Box()) == ["0.5"]


def test_score_axis_holds_the_shaded_interval_and_leaves_zero_off_a_log_axis() -> None:
    table = pd.DataFrame({"press": ["no_press", "a"], "mean": [0.0, 0.5], "low": [0.0, 0.4], "high": [0.0, 0.9]})
    low, high = score_limits([table], Measure("kl", "KL", False), ["a"])
    assert 0.0 < low < 0.4 and high > 0.9
    low, high = score_limits([table], Measure("ratio", "ratio", False))
    assert low < 0.0 and 0.5 < high < 0.9


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_can_be_read(theme: Any) -> None:
    texts = (theme.ink, theme.muted, theme.good, theme.bad, *theme.accents)
    assert min(contrast(text, surface) for text in texts for surface in (theme.surface, theme.page)) >= 4.5
    assert min(contrast(colour, theme.surface) for colour in theme.series) >= 3.0
    cells = [blend(ramp, step / 20) for ramp in (theme.ramp, FOUND) for step in range(21)]
    assert min(contrast(text_on(cell), cell) for cell in cells) >= 4.5
    assert len(set(theme.tokens().values())) == len(theme.tokens())


# Loading


def test_some_presses_can_be_drawn_alone(tmp_path: Path) -> None:
    study = load([write_study(tmp_path, ["moe_router", "knorm", "tova"], benchmarks=("fidelity",))])
    some = only(study, ["tova", "moe_router"])
    assert [press.name for press in some.presses] == ["moe_router", "tova"]
    assert set(some.rows["press"]) == {"moe_router", "tova", "no_press"}
    assert len(summarise(some).study.presses) == 2
    with pytest.raises(ValueError, match="there are no results of snapkv; there are some of moe_router, knorm, tova"):
        only(study, ["snapkv"])


def test_a_half_written_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study") / "samples-ruler.jsonl"
    path.write_text(path.read_text()[:-40])
    study = load([tmp_path / "study"])
    assert len(study.rows) == 9 * (8 + 12) - 1
    assert study.notes[0] == "interrupted: 19 of 20 samples have results of every press and ratio."
    assert "study/samples-ruler.jsonl ends in a half-written line" in study.notes[1]
    files = report([tmp_path / "study"], tmp_path / "report")
    assert "interrupted: 19 of 20 samples" in files[0].read_text()
    assert "interrupted: 19 of 20 samples" in files[2].read_text()
    assert "over 7 samples" in files[0].read_text()


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study") / "samples-ruler.jsonl"
    lines = lines_of(path)
    path.write_text("".join([*lines[:4], lines[4][:30] + "\n", *lines[5:]]))
    with pytest.raises(ValueError, match=r"samples-ruler\.jsonl, line 5 is not JSON"):
        load([tmp_path / "study"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"press": "other"}, "press 'other' is not in study.yaml, which has moe_router, snapkv"),
        ({"benchmark": "other"}, "benchmark 'other' is not in study.yaml, which has ruler, fidelity"),
        ({"measures": {}}, "measures lack string_match"),
        ({"measures": {"string_match": float("nan")}}, "measure string_match is nan, not a finite number"),
        ({"bytes_held": None}, "bytes_held is None, not a finite number"),
        ({"length": -1}, "length is -1"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = small_study(tmp_path / "study") / "samples-ruler.jsonl"
    lines = lines_of(path)
    lines[2] = json.dumps(json.loads(lines[2]) | change) + "\n"
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match="line 3: ") as caught:
        load([tmp_path / "study"])
    assert said in str(caught.value)


def test_a_result_may_occur_once(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study") / "samples-ruler.jsonl"
    path.write_text(path.read_text() + lines_of(path)[3])
    with pytest.raises(ValueError, match=r"line 73 repeats .*line 4: "):
        load([tmp_path / "study"])


def test_files_of_one_folder_may_share_a_result_and_the_first_counts(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study", benchmarks=("ruler",)) / "samples-ruler.jsonl"
    line = json.loads(lines_of(path)[3]) | {"measures": {"string_match": 33.0}}
    path.with_name("samples-x.jsonl").write_text(json.dumps(line) + "\n")
    study = load([tmp_path / "study"])
    assert len(study.rows) == 9 * 8
    assert 33.0 not in set(study.rows["measure_string_match"])


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


def test_two_folders_may_not_share_a_result(tmp_path: Path) -> None:
    folders = [small_study(tmp_path / name, benchmarks=("ruler",)) for name in ("first", "second")]
    with pytest.raises(ValueError, match=r"second.samples-ruler.jsonl, line 2 repeats .*first.samples-ruler.jsonl"):
        load(folders)


def test_folders_may_share_the_full_cache(tmp_path: Path) -> None:
    first, second = (small_study(tmp_path / name, benchmarks=("ruler",)) for name in ("first", "second"))
    for folder, ours in ((first, True), (second, False)):
        path = folder / "samples-ruler.jsonl"
        lines = [json.loads(line) for line in lines_of(path)]
        kept = [line for line in lines if line["press"] == "no_press" or line["press"].startswith("moe") == ours]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    study = load([first, second])
    assert len(study.rows) == 9 * 8 and study.notes == []


def test_samples_that_were_planned_but_not_begun_are_missed(tmp_path: Path) -> None:
    folder = small_study(tmp_path / "study")
    head = yaml.safe_load((folder / "study.yaml").read_text())
    head["benchmarks"][0]["samples"] = {"512": 30}
    head["benchmarks"][1]["samples"] = {"None": 12}
    (folder / "study.yaml").write_text(yaml.safe_dump(head))
    assert load([folder]).notes == ["incomplete: 20 of 42 samples have results of every press and ratio."]


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a results folder: it has no study"):
        load([tmp_path])


def test_folders_of_one_model_and_seed_are_merged(tmp_path: Path) -> None:
    first = small_study(tmp_path / "first", benchmarks=("ruler",))
    second = small_study(tmp_path / "second", benchmarks=("fidelity",), date="2026-11-23")
    study = load([first, second])
    assert [benchmark.name for benchmark in study.benchmarks] == ["ruler", "fidelity"]
    assert study.facts["date"] == ["2026-11-22", "2026-11-23"]
    assert not study.notes


@pytest.mark.parametrize("change", [{"model": "other"}, {"seed": 1}, {"query_aware": True}])
def test_folders_of_different_studies_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    first = small_study(tmp_path / "first", benchmarks=("ruler",))
    second = small_study(tmp_path / "second", benchmarks=("fidelity",), **change)
    with pytest.raises(ValueError, match="write one report for each"):
        load([first, second])


# Summary and tables


def test_means_and_differences_are_those_of_the_lines(tmp_path: Path) -> None:
    study = load([small_study(tmp_path)])
    summary = summarise(study)
    group = summary.groups[0]
    rows = study.rows[study.rows["benchmark"] == "ruler"]
    wanted = rows.groupby(["press", "ratio"])["measure_string_match"].mean()
    table = summary.of(group).set_index(["press", "ratio"])
    assert table["mean"].to_dict() == pytest.approx(wanted.to_dict())
    for (press, ratio), row in table.drop("no_press", level="press").iterrows():
        others = wanted.xs(ratio, level="ratio").drop([press], errors="ignore")
        assert row["best_other"] != press
        assert row["difference"] == pytest.approx(wanted[press, ratio] - others.max())
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


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


def test_pooled_percentile_comes_from_the_tokens(tmp_path: Path) -> None:
    study = load([small_study(tmp_path)])
    summary = summarise(study)
    group = summary.groups[1]
    rows = study.rows[(study.rows["press"] == "snapkv") & (study.rows["ratio"] == 0.5)].dropna(subset="token_kl")
    table = summary.of(group, group.benchmark.measures[1]).set_index(["press", "ratio"])
    assert table.loc[("snapkv", 0.5), "mean"] == pytest.approx(
        np.percentile(np.concatenate(list(rows["token_kl"])), 95)
    )


def test_glance_is_taken_at_one_half(summary: Summary) -> None:
    assert {glance.ratio for glance in glances(summary)} == {0.5}
    assert [name for name, *_ in glances(summary)[0].highlighted] == ["moe_router"]


def test_percent_is_read_from_the_label() -> None:
    assert Measure("found", "found (%)", True).percent
    assert not Measure("kl", "KL (nats/token)", False).percent


# The files


def test_report_writes_all_files_and_nothing_else(written: dict[str, Path]) -> None:
    assert {"report.md", "report.csv", "report.html"} <= set(written)
    for name in ("curves-ruler", "curves-fidelity", "needle", "heatmap-ruler-4096", "memory-ruler", "time-ruler"):
        for theme in ("light", "dark"):
            assert written[f"{name}-{theme}.png"].read_bytes().startswith(b"\x89PNG")
    assert set(written["report.md"].parent.iterdir()) == set(written.values())


def test_page_is_self_contained_and_small(written: dict[str, Path]) -> None:
    page = written["report.html"].read_text()
    assert len(page) < 1_000_000
    for outside in ("<script", "<link", "<img", "@import", "src=", "url(http", 'href="http'):
        assert outside not in page
    assert "prefers-color-scheme:dark" in page
    assert page.count("<svg role=") == page.count('<svg role="img" aria-label="')
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    pictures = "".join(part.split("</svg>")[0] for part in page.split("<svg role=")[1:])
    assert ">0.875</text>" in pictures and ">0.88</text>" not in pictures
    assert "#" not in pictures.replace('href="#', "").replace("url(#", "")


def test_markdown_names_what_was_written_beside_it(written: dict[str, Path]) -> None:
    text = written["report.md"].read_text()
    assert "![" not in text and "<img" not in text  # they are not kept in a repository
    pictures = re.findall(r"^- `([\w-]+)`: ", text, flags=re.M)
    named = {f"{name}-{theme}.png" for name in pictures for theme in ("light", "dark")}
    assert named == {name for name in written if name.endswith(".png")}
    assert "| full cache |" in text
    assert "(masked: bytes still held)" in text


def test_csv_has_every_number(written: dict[str, Path]) -> None:
    table = pd.read_csv(written["report.csv"])
    keys = ["benchmark", "length", "measure", "task", "press", "ratio"]
    assert not table.duplicated(keys).any()
    ruler = table[(table["benchmark"] == "ruler") & (table["task"] == "all")]
    assert len(ruler) == len(WRITTEN_LENGTHS) * (1 + len(PRESSES) * len(WRITTEN_RATIOS))
    assert ((ruler["low"] <= ruler["mean"]) & (ruler["mean"] <= ruler["high"])).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"ratios": [0.5]},
        {"presses": ["snapkv"]},
        {"presses": ["moe_router"], "tasks": ["vt"], "benchmarks": ("ruler",)},
        {"benchmarks": ("needle",), "lengths": [512, 1024]},
    ],
    ids=["one ratio", "one press", "one of everything", "needle only"],
)
def test_small_studies_have_reports(tmp_path: Path, changes: dict[str, Any]) -> None:
    files = report([small_study(tmp_path / "study", **changes)], tmp_path / "report")
    assert all(path.stat().st_size for path in files)


def test_a_study_without_full_cache_or_times_has_a_report(tmp_path: Path) -> None:
    path = small_study(tmp_path / "study", benchmarks=("ruler",)) / "samples-ruler.jsonl"
    lines = [json.loads(line) | {"press_seconds": 0.0} for line in lines_of(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["press"] != "no_press"))
    files = {path.name for path in report([tmp_path / "study"], tmp_path / "report")}
    assert "curves-ruler-light.png" in files
    assert "time-ruler-light.png" not in files
