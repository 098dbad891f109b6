"""Means, intervals and differences of single results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.report.load import load
from evaluation.report.summary import summarise
from tests.evaluation.report.made_up import small_study


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


def test_pooled_percentile_comes_from_the_tokens(tmp_path: Path) -> None:
    study = load([small_study(tmp_path)])
    summary = summarise(study)
    group = summary.groups[1]
    rows = study.rows[(study.rows["press"] == "snapkv") & (study.rows["ratio"] == 0.5)].dropna(subset="token_kl")
    table = summary.of(group, group.benchmark.measures[1]).set_index(["press", "ratio"])
    assert table.loc[("snapkv", 0.5), "mean"] == pytest.approx(
        np.percentile(np.concatenate(list(rows["token_kl"])), 95)
    )
