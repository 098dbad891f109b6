"""The committed studies can be run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from evaluation.cli import app
from evaluation.compressors import with_package
from evaluation.report.load import load
from evaluation.report.markdown import render
from evaluation.report.pictures import png_pictures
from evaluation.report.summary import summarise
from evaluation.study import make_study, read_study

FOLDER = Path(__file__).resolve().parents[2] / "evaluation"


@pytest.mark.parametrize("file", sorted((FOLDER / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_is_valid(file, monkeypatch):
    monkeypatch.setattr(with_package, "version", str)  # as if the packages of rivals were installed
    study = make_study(read_study(file))
    assert study.output.parts[:2] == ("evaluation", "results")
    assert f"python -m evaluation run evaluation/studies/{file.name}" in file.read_text()


RESULTS = sorted((FOLDER / "results").glob("*/"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_every_result_names_its_study_and_a_clean_commit(folder):
    described = yaml.safe_load((folder / "study.yaml").read_text())
    assert "evaluation/studies/" in str(described["command"])
    assert described["commit"] and "dirty" not in str(described["commit"])


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_every_report_is_what_its_samples_give(folder):
    summary = summarise(load([folder]))
    assert not summary.study.notes
    assert render(summary, list(png_pictures(summary))) == (folder / "report.md").read_text()


def test_a_kept_study_is_drawn_again_and_only_what_is_kept_is_seen_by_git(tmp_path):
    kept = FOLDER / "results/gates-transfer"
    own = tmp_path / "results/gates-transfer"
    shutil.copytree(kept, own, ignore=shutil.ignore_patterns("*.html", "*.csv", "*.png", "*.md", "samples-*"))
    shutil.copy(FOLDER / "results/.gitignore", tmp_path / "results")
    done = CliRunner().invoke(app, ["report", str(own)])
    assert done.exit_code == 0, done.output
    assert (own / "report.md").read_bytes() == (kept / "report.md").read_bytes()
    assert {"report.html", "report.csv", "curves-fidelity-light.png"} <= {path.name for path in own.iterdir()}
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    git = ["git", "-C", str(tmp_path), "ls-files", "--others", "--exclude-standard"]
    seen = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split()
    names = ("report.md", "samples.jsonl.gz", "study.yaml")
    assert seen == ["results/.gitignore", *(f"results/gates-transfer/{name}" for name in names)]
