"""One press as a share of another: ratios of means on the same samples, with intervals, and the worst task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from evaluation.report.contents import Results
from evaluation.report.statistics import best, bootstrap_means
from evaluation.report.summary import Group
from pikvpress.support.registry import check_name


class Share(NamedTuple):
    """A press's mean as a share of its rival's, at one ratio.

    Attributes
    ----------
    group : Group
        Results on the samples that both have; the benchmark's main measure is compared.
    ratio : float
        Compression ratio.
    rival : str
        The best of the other presses, by its mean.
    mean, low, high : float
        The share, and its 95 % interval over paired bootstrap samples.
    task, worst : str, float
        The task with the worst share, and that share.
    """

    group: Group
    ratio: float
    rival: str
    mean: float
    low: float
    high: float
    task: str
    worst: float


def shares(study: Results, press: str, rivals: Sequence[str]) -> Iterator[Share]:
    """Compare a press with the best of some rivals, at every ratio of every benchmark and length.

    Samples without results for the press and all rivals are ignored.

    Raises
    ------
    ValueError
        If one of them has no results.
    """
    for name in (press, *rivals):
        check_name(name, [known.name for known in study.presses], "press of these results")
    wanted = [press, *dict.fromkeys(name for name in rivals if name != press)]
    if len(wanted) == 1:
        raise ValueError(f"{press} can only be compared with other presses: pass some")
    for benchmark in study.benchmarks:
        column = f"measure_{benchmark.main.name}"
        rows = study.rows[(study.rows["benchmark"] == benchmark.name) & study.rows["press"].isin(wanted)]
        for (length, ratio), cell in rows.groupby(["length", "ratio"]):
            values = cell.pivot(index="sample", columns="press", values=column)
            if not set(wanted) <= set(values.columns):
                continue
            values = values[wanted].dropna()
            if len(values):
                tasks = cell.drop_duplicates("sample").set_index("sample")["task"].loc[values.index]
                group = Group(benchmark, int(length), len(values), tuple(dict.fromkeys(tasks)))
                yield _share(group, float(ratio), values, tasks)


def _share(group: Group, ratio: float, values: pd.DataFrame, tasks: pd.Series) -> Share:
    higher = group.benchmark.main.higher_is_better
    press, *rivals = values.columns
    rival = best(values[rivals].mean(), higher)
    pair = values[[press, rival]]
    means = bootstrap_means(pair.to_numpy(dtype=float), tasks.to_numpy())
    with np.errstate(divide="ignore", invalid="ignore"):  # a rival's mean may be 0
        low, high = np.nanpercentile(means[:, 0] / means[:, 1], [2.5, 97.5])
        mean = np.divide(*pair.mean())
        by_task = pair.groupby(tasks).mean()
        by_task = (by_task[press] / by_task[rival]).fillna(1.0)  # both are 0
    task = str(best(-by_task, higher))
    return Share(
        group,
        ratio,
        str(rival),
        mean=float(mean),
        low=float(low),
        high=float(high),
        task=task,
        worst=float(by_task[task]),
    )
