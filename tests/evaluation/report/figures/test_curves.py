"""Score against compression ratio."""

from __future__ import annotations

import pandas as pd

from evaluation.report.figures.canvas import Box
from evaluation.report.figures.curves import score_limits, tick_labels
from evaluation.schema import Measure


def test_tick_labels_do_not_touch() -> None:
    assert tick_labels([0.1, 0.5, 0.9], Box()) == ["0.1", "0.5", "0.9"]
    assert tick_labels([0.25, 0.5, 0.75, 0.8, 0.9], Box()) == ["0.25", "0.5", "", "0.8", "0.9"]
    assert tick_labels([0.5], Box()) == ["0.5"]


def test_score_axis_holds_the_shaded_interval_and_leaves_zero_off_a_log_axis() -> None:
    table = pd.DataFrame({"press": ["no_press", "a"], "mean": [0.0, 0.5], "low": [0.0, 0.4], "high": [0.0, 0.9]})
    low, high = score_limits([table], Measure("kl", "KL", False), ["a"])
    assert 0.0 < low < 0.4 and high > 0.9
    low, high = score_limits([table], Measure("ratio", "ratio", False))
    assert low < 0.0 and 0.5 < high < 0.9
