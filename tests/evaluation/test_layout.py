"""What a study's folder records, and what may be added to it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from evaluation import layout

STUDY = {
    "model": "tiny",
    "model_fingerprint": {"a": "1"},
    "seed": 0,
    "query_aware": False,
    "max_new_tokens": None,
    "dtype": "float32",
    "command": "run a",
    "date": "2026-01-01",
    "commit": "abc",
    "presses": [{"name": "knorm", "unit": "tokens", "masks": False}],
    "ratios": [0.5],
    "benchmarks": [{"name": "ruler", "label": "ruler", "tasks": ["vt"], "samples": {"1024": 3}}],
}


def test_several_runs_into_a_folder_are_all_named():
    assert layout._all_of("run a", "run a") == "run a"
    assert layout._all_of("run a", "run b") == ["run a", "run b"]
    assert layout._all_of(["run a", "run b"], "run a") == ["run a", "run b"]


def test_presses_ratios_and_tasks_are_added(tmp_path):
    layout.write_study(tmp_path, STUDY)
    more = STUDY | {
        "command": "run b",
        "presses": [{"name": "snapkv", "unit": "tokens", "masks": False}],
        "ratios": [0.25],
        "benchmarks": [{"name": "ruler", "label": "ruler", "tasks": ["cwe"], "samples": {"1024": 1, "2048": 2}}],
    }
    merged = layout.merge_into(tmp_path, more)
    assert [press["name"] for press in merged["presses"]] == ["knorm", "snapkv"] and merged["ratios"] == [0.25, 0.5]
    (benchmark,) = merged["benchmarks"]
    assert benchmark["tasks"] == ["cwe", "vt"] and benchmark["samples"] == {"1024": 3, "2048": 2}
    assert merged["command"] == ["run a", "run b"]
    assert yaml.safe_load((tmp_path / "study.yaml").read_text()) == STUDY


@pytest.mark.parametrize("name", layout.FIXED)
def test_another_study_is_refused(name, tmp_path):
    layout.write_study(tmp_path, STUDY)
    with pytest.raises(ValueError, match=f"holds results with {name} .*choose another --output"):
        layout.merge_into(tmp_path, STUDY | {name: "other"})


def test_models_are_named_by_their_folder_or_file(tmp_path):
    assert layout.model_name(SimpleNamespace(model=None)) == "SmolLM2-135M-Instruct"
    assert layout.model_name(SimpleNamespace(model=str(tmp_path))) == tmp_path.name
