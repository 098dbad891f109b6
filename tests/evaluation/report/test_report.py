"""The files that a report consists of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import report
from tests.evaluation.report.made_up import lines_of, small_study


def test_report_writes_all_files_and_nothing_else(written: dict[str, Path]) -> None:
    assert {"report.md", "report.csv", "report.html"} <= set(written)
    for name in ("curves-ruler", "curves-fidelity", "needle", "heatmap-ruler-4096", "memory-ruler", "time-ruler"):
        for theme in ("light", "dark"):
            assert written[f"{name}-{theme}.png"].read_bytes().startswith(b"\x89PNG")
    assert set(written["report.md"].parent.iterdir()) == set(written.values())


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
