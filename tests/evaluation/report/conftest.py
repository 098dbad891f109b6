"""A study with made-up results: summarised, and its whole report."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.report import report
from evaluation.report.load import load
from evaluation.report.summary import Summary, summarise
from tests.evaluation.report.made_up import WRITTEN_LENGTHS, WRITTEN_RATIOS, small_study, write_study


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the files of the report of a study with all presses and benchmarks, by name."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_study(folder / "study", ratios=WRITTEN_RATIOS, lengths=WRITTEN_LENGTHS, per_task=2)
    return {path.name: path for path in report([study], folder / "report")}


@pytest.fixture(scope="session")
def needles(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("needles")
    return summarise(load([small_study(folder, benchmarks=("needle",), lengths=[512, 1024])]))


@pytest.fixture(scope="session")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summarise(load([small_study(tmp_path_factory.mktemp("small"))]))
