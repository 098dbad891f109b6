"""Study folders are read and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.report import report
from evaluation.report.load import load, only
from evaluation.report.summary import summarise
from tests.evaluation.report.made_up import lines_of, small_study, write_study


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
    assert "instead of a ratio is shown" in (tmp_path / "out/report.md").read_text()


def test_some_presses_can_be_drawn_alone(tmp_path: Path) -> None:
    study = load([write_study(tmp_path, ["moe_router", "knorm", "tova"], benchmarks=("fidelity",))])
    some = only(study, ["tova", "moe_router"])
    assert [press.name for press in some.presses] == ["moe_router", "tova"]
    assert set(some.rows["press"]) == {"moe_router", "tova", "no_press"}
    assert len(summarise(some).study.presses) == 2
    with pytest.raises(ValueError, match="no results of snapkv; there are results of moe_router, knorm, tova"):
        only(study, ["snapkv"])


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


def test_labels_of_several_folders_are_joined_and_the_first_counts(tmp_path: Path) -> None:
    first = small_study(tmp_path / "first", benchmarks=("ruler",), labels={"snapkv": "SnapKV"})
    second = small_study(tmp_path / "second", benchmarks=("fidelity",), labels={"snapkv": "Snap", "think": "ThinK"})
    assert load([first, second]).labels == {"snapkv": "SnapKV", "think": "ThinK"}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"snap": "SnapKV"}, "press to label in .*study.yaml.*snapkv"),
        ({"snapkv": "moe_router"}, "moe_router and snapkv are both called 'moe_router'"),
        (["snapkv"], "labels must map presses to short names"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, labels: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load([small_study(tmp_path, labels=labels)])
