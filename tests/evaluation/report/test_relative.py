"""One press as a share of another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluation.cli import app
from evaluation.report.contents import MeasuredBenchmark, Press, Results
from evaluation.report.relative import shares
from evaluation.schema import Measure
from tests.evaluation.report.made_up import small_study

# Means: "ours" 1.5, "theirs" 3, "bad" 7; in task b ours is 2 of theirs' 2.
KL = {
    "ours": {"a": [1.0, 1.0], "b": [1.0, 3.0]},
    "theirs": {"a": [3.0, 5.0], "b": [1.0, 3.0]},
    "bad": {"a": [6.0, 8.0], "b": [7.0, 7.0]},
}


def study(results=KL, higher=False):
    rows = [
        {"press": press, "task": task, "sample": f"{task}{i}", "measure_kl": value}
        for press, tasks in results.items()
        for task, values in tasks.items()
        for i, value in enumerate(values)
    ]
    benchmark = MeasuredBenchmark("f", "fidelity", (Measure("kl", "KL", higher),))
    presses = [Press(name, "tokens", False) for name in results]
    return Results({}, [benchmark], presses, pd.DataFrame(rows).assign(benchmark="f", length=0, ratio=0.5), [])


def test_a_share_is_that_of_the_best_rival_and_its_worst_task():
    (found,) = shares(study(), "ours", ["bad", "theirs"])
    assert (found.rival, found.group.samples, found.mean) == ("theirs", 4, 0.5)
    assert (found.task, found.worst) == ("b", 1.0)
    assert 0.25 <= found.low < 0.5 < found.high <= 1.0


def test_the_interval_is_that_of_paired_draws_within_tasks():
    rng = np.random.default_rng(0)
    theirs = {"a": list(rng.uniform(1, 9, 30)), "b": list(rng.uniform(1, 9, 30))}
    halves = {task: [value / 2 for value in values] for task, values in theirs.items()}
    (found,) = shares(study({"ours": halves, "theirs": theirs}), "ours", ["theirs"])
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)


def test_where_more_is_better_the_worst_task_has_the_least():
    (found,) = shares(study(higher=True), "ours", ["theirs", "bad"])
    assert (found.rival, found.task) == ("bad", "a")
    assert found.mean == pytest.approx(1.5 / 7) and found.worst == pytest.approx(1 / 7)


def test_samples_that_one_of_them_lacks_are_left_out():
    short = {**KL, "theirs": {"a": [3.0], "b": [1.0, 3.0]}}
    (found,) = shares(study(short), "ours", ["theirs"])
    assert found.group.samples == 3 and found.mean == pytest.approx(5 / 7)


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"unknown press of these results 'their': did you mean theirs\?"):
        list(shares(study(), "ours", ["their"]))
    with pytest.raises(ValueError, match="ours can only be compared with other presses"):
        list(shares(study(), "ours", ["ours"]))


def test_the_command_prints_a_line_for_every_benchmark_and_ratio(tmp_path):
    folder = str(small_study(tmp_path / "study"))
    arguments = ["compare", folder, "--press", "moe_router", "--against", "snapkv", "--against", "think"]
    result = CliRunner().invoke(app, arguments)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and lines[0] == "moe_router, as a share of the best of snapkv, think"
    assert len(lines) == 1 + 2 * 2 and "ruler-11, 512 tokens, ratio 0.25: " in lines[1]
    assert CliRunner().invoke(app, [*arguments[:3], "nobody", *arguments[4:]]).exit_code == 2
