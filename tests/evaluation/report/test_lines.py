"""Samples are checked line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import report
from evaluation.report.load import load
from tests.evaluation.report.made_up import lines_of, small_study


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
