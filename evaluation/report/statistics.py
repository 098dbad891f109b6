"""Bootstrap intervals over samples, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 10_000
SEED = 0
# Bounds the memory of the counts: resamples in one block x samples x 8 bytes.
BLOCK = 1000


def resample_counts(strata: Sequence[object], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw samples with replacement within each stratum; strata of one sample are drawn from together.

    Parameters
    ----------
    strata : sequence
        The stratum of each sample, such as its task.
    resamples : int
        How often to draw.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray
        How often each sample was drawn, shape (resamples, samples).
    """
    codes = pd.factorize(np.asarray(strata, dtype=object))[0]
    # One sample alone would be drawn every time, and an interval over such strata would have no width.
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
    """Return means over resampled samples; every column sees the same draws, which makes columns paired.

    Parameters
    ----------
    values : ndarray
        Shape (samples, columns), without gaps.
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
    """Return mean and 95 % interval of each column, over the samples that it has.

    Parameters
    ----------
    table : DataFrame
        One row a sample; NaN where a result is missing.
    strata : Series
        Stratum of each sample, with the index of `table`.

    Returns
    -------
    DataFrame
        Columns `mean`, `low`, `high` and `samples`, one row a column of `table`.
    """
    present = table.notna()
    answer = pd.DataFrame(index=table.columns, columns=["mean", "low", "high", "samples"], dtype=float)
    patterns: dict[bytes, list[int]] = {}
    for column in range(present.shape[1]):
        patterns.setdefault(present.iloc[:, column].to_numpy().tobytes(), []).append(column)
    # Columns with the same samples share their draws; usually that is all of them.
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
    """Say in words what the interval of a difference from another press means."""
    if math.isnan(low) or low <= 0 <= high:
        return "not distinguishable"
    return "better" if (low > 0) == higher_is_better else "worse"


def best(means: pd.Series, higher_is_better: bool) -> str | None:
    """Return the label of the best value, None where all are missing."""
    known = means.dropna()
    if known.empty:
        return None
    return str(known.idxmax() if higher_is_better else known.idxmin())


def pooled_percentile(arrays: Sequence[np.ndarray], percent: float) -> float:
    """Return a percentile of all values of all arrays together."""
    return float(np.percentile(np.concatenate(arrays), percent))


def pareto_front(cost: np.ndarray, score: np.ndarray, higher_is_better: bool) -> list[int]:
    """Return the points that no other point beats in both cost and score, by rising cost."""
    gain = score if higher_is_better else -score
    front: list[int] = []
    for index in np.lexsort((-gain, cost)):
        if not front or gain[index] > gain[front[-1]]:
            front.append(int(index))
    return front
