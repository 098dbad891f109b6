"""Formatting of numbers in the report."""

from __future__ import annotations

import math

import pandas as pd

from evaluation.schema import Measure

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float, measure: Measure) -> str:
    """Return a value with the number of digits for its measure."""
    if value is None or math.isnan(value):
        return MISSING
    if measure.percent:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float, measure: Measure) -> str:
    """Return a difference with its sign."""
    text = number(abs(value), measure)
    if text == MISSING or not float(text):
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def interval(row: pd.Series, measure: Measure) -> str:
    """Return the interval of a mean, empty if there is none or all samples agree."""
    if math.isnan(row["low"]) or row["low"] == row["high"]:
        return ""
    return f"{number(row['low'], measure)} to {number(row['high'], measure)}"


def difference_interval(row: pd.Series, measure: Measure) -> str:
    """Return the interval of a difference."""
    if math.isnan(row["difference_low"]):
        return ""
    return f"{signed(row['difference_low'], measure)} to {signed(row['difference_high'], measure)}"


def percent(value: float) -> str:
    """Return a share that is already in percent."""
    return MISSING if math.isnan(value) else f"{round(value, 1):g}"
