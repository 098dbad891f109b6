"""Bootstrap intervals over samples, and their interpretation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 10_000
SEED = 0
# Limits the memory of the counts: resamples in one block x samples x 8 bytes.
BLOCK = 1000


def resample_counts(strata: Sequence[object], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw samples with replacement within each stratum; strata with one sample are merged.

    Parameters
    ----------
    strata : sequence
        The stratum of each sample, such as its task.
    resamples : int
        Number of resamples.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray
        How often each sample was drawn, shape (resamples, samples).
    """
    codes = pd.factorize(np.asarray(strata, dtype=object))[0]
    # A single sample would be drawn every time, and an interval over such strata would have no width.
    alone = np.bincount(codes)[codes] == 1
    codes = pd.factorize(np.where(alone, -1, codes))[0]
    counts = np.zeros((resamples, len(codes)))
    for code in range(codes.max() + 1):
        members = np.flatnonzero(codes == code)
        size = len(members)
        drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
        counts[:, members] = np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)
    return counts


def bootstrap_means(
    values: np.ndarray, strata: Sequence[object], resamples: int = RESAMPLES, seed: int = SEED
) -> np.ndarray:
    """Return means over resampled samples; all columns use the same draws, so they are paired.

    Parameters
    ----------
    values : ndarray
        Shape (samples, columns), without missing values.
    strata : sequence
        The stratum of each sample.

    Returns
    -------
    ndarray
        Shape (resamples, columns).
    """
    rng = np.random.default_rng(seed)
    blocks = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    return np.concatenate([resample_counts(strata, size, rng) @ values for size in blocks]) / len(values)


def intervals(table: pd.DataFrame, strata: pd.Series) -> pd.DataFrame:
    """Return mean and 95 % interval of each column over its available samples.

    Parameters
    ----------
    table : DataFrame
        One row per sample; NaN if a result is missing.
    strata : Series
        Stratum of each sample, with the index of `table`.

    Returns
    -------
    DataFrame
        Columns `mean`, `low`, `high` and `samples`, one row per column of `table`.
    """
    present = table.notna()
    answer = pd.DataFrame(index=table.columns, columns=["mean", "low", "high", "samples"], dtype=float)
    patterns: dict[bytes, list[int]] = {}
    for column in range(present.shape[1]):
        patterns.setdefault(present.iloc[:, column].to_numpy().tobytes(), []).append(column)
    # Columns with the same samples share their draws; usually these are all columns.
    for members in patterns.values():
        mask = present.iloc[:, members[0]].to_numpy()
        if not mask.any():
            continue
        values = table.iloc[mask, members].to_numpy(dtype=float)
        means = bootstrap_means(values, strata.to_numpy()[mask])
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        rows = np.column_stack([values.mean(axis=0), low, high, np.full(len(members), mask.sum())])
        answer.iloc[members] = rows
    return answer


def verdict(low: float, high: float, higher_is_better: bool) -> str:
    """Describe in words what the interval of a difference from another press means."""
    if math.isnan(low) or low <= 0 <= high:
        return "not distinguishable"
    return "better" if (low > 0) == higher_is_better else "worse"


def best(means: pd.Series, higher_is_better: bool) -> str | None:
    """Return the label of the best value, or None if all are missing."""
    known = means.dropna()
    if known.empty:
        return None
    return str(known.idxmax() if higher_is_better else known.idxmin())


def pooled_percentile(arrays: Sequence[np.ndarray], percent: float) -> float:
    """Return a percentile over the values of all arrays."""
    return float(np.percentile(np.concatenate(arrays), percent))


def pareto_front(cost: np.ndarray, score: np.ndarray, higher_is_better: bool) -> list[int]:
    """Return the points that no other point beats in both cost and score, by increasing cost."""
    gain = score if higher_is_better else -score
    front: list[int] = []
    for index in np.lexsort((-gain, cost)):
        if not front or gain[index] > gain[front[-1]]:
            front.append(int(index))
    return front
