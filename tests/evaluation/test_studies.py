"""The studies that are kept with their results can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evaluation.study import make_study, read_study

FOLDER = Path(__file__).resolve().parents[2] / "evaluation"


@pytest.mark.parametrize("file", sorted((FOLDER / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_is_valid(file):
    study = make_study(read_study(file))
    assert study.output.parts[:2] == ("evaluation", "results")
    assert f"python -m evaluation run evaluation/studies/{file.name}" in file.read_text()


@pytest.mark.parametrize("folder", sorted((FOLDER / "results").glob("*/")), ids=lambda folder: folder.name)
def test_every_result_names_its_study_and_a_clean_commit(folder):
    described = yaml.safe_load((folder / "study.yaml").read_text())
    assert "evaluation/studies/" in str(described["command"])
    assert described["commit"] and "dirty" not in str(described["commit"])
    assert (folder / "report.md").is_file() and (folder / "report.html").is_file()
