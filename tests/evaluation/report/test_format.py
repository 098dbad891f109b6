"""Formatting of numbers in reports."""

from __future__ import annotations

import math

import pandas as pd

from evaluation.report.format import MINUS, MISSING, difference_interval, interval, number, percent, signed
from evaluation.schema import Measure

KL, SCORE = Measure("kl", "KL", False), Measure("score", "score (%)", True)


def test_digits_suit_the_measure():
    assert number(0.12345, KL) == "0.123" and number(12.345, KL) == "12.3" and number(99.96, SCORE) == "100.0"
    assert number(math.nan, KL) == MISSING == number(None, KL)


def test_differences_have_a_sign_unless_they_are_nothing():
    assert signed(0.5, KL) == "+0.500" and signed(-0.5, KL) == f"{MINUS}0.500" and signed(-0.0001, KL) == "0.000"
    assert signed(math.nan, KL) == MISSING


def test_intervals_are_left_out_where_samples_agree():
    row = pd.Series({"low": 0.1, "high": 0.2, "difference_low": -0.1, "difference_high": math.nan})
    assert interval(row, KL) == "0.100 to 0.200"
    assert interval(pd.Series({"low": 0.1, "high": 0.1}), KL) == ""
    assert difference_interval(row, KL) == f"{MINUS}0.100 to {MISSING}"


def test_shares():
    assert percent(12.34) == "12.3" and percent(50.0) == "50" and percent(math.nan) == MISSING
