"""Intervals over samples, and what follows from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evaluation.report.statistics import (
    bootstrap_means,
    intervals,
    pareto_front,
    pooled_percentile,
    resample_counts,
    verdict,
)


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
