"""From individual results to one table of means, intervals, memory and time per press and ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.report.contents import FULL_CACHE_LABEL, MeasuredBenchmark, Results
from evaluation.report.statistics import best, intervals, pooled_percentile, verdict
from evaluation.schema import FULL_CACHE, Measure

ALL_TASKS = "all"
POOLED = "kl_p95"
HIGHLIGHTED = ("moe_router", "pikv")
CELL = ["press", "ratio"]


@dataclass(frozen=True)
class Group:
    """Comparable results: one benchmark at one length."""

    benchmark: MeasuredBenchmark
    length: int
    samples: int
    tasks: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name for headings."""
        return f"{self.benchmark.label}, {self.length} tokens" if self.length else self.benchmark.label

    @property
    def slug(self) -> str:
        """Name for files and anchors."""
        return f"{self.benchmark.slug}-{self.length}" if self.length else self.benchmark.slug


@dataclass(frozen=True)
class Summary:
    """The contents of the report.

    Attributes
    ----------
    study : Results
        The results.
    groups : list of Group
        In the order of the study, with increasing lengths.
    table : DataFrame
        One row per benchmark, length, measure, task, press and ratio; task `all` has the intervals, and the difference
        from the best other press.
    """

    study: Results
    groups: list[Group]
    table: pd.DataFrame

    @property
    def presses(self) -> list[str]:
        """Names of the presses that compress."""
        return [press.name for press in self.study.presses]

    @property
    def masked(self) -> set[str]:
        """Names of the presses that only mask."""
        seen = self.study.rows.loc[self.study.rows["masked"], "press"]
        return {press.name for press in self.study.presses if press.masks} | set(seen)

    @property
    def highlighted(self) -> list[str]:
        """Names of the presses of this project."""
        return [name for name in self.presses if name.startswith(HIGHLIGHTED)]

    def label(self, press: str) -> str:
        """Return the label of a press in tables and figures."""
        return FULL_CACHE_LABEL if press == FULL_CACHE else self.study.labels.get(press, press)

    @property
    def highlighted_labels(self) -> list[str]:
        """Labels of the presses of this project."""
        return [self.label(name) for name in self.highlighted]

    def of(self, group: Group, measure: Measure | None = None) -> pd.DataFrame:
        """Return the rows of a group and measure (the main one if none is given), all tasks together."""
        table = self.by_task(group, measure)
        return table[table["task"] == ALL_TASKS]

    def by_task(self, group: Group, measure: Measure | None = None) -> pd.DataFrame:
        """Return the rows of a group and measure, per task and for all tasks."""
        name = (measure or group.benchmark.main).name
        table = self.table
        wanted = (table["benchmark"] == group.benchmark.name) & (table["length"] == group.length)
        return table[wanted & (table["measure"] == name)]

    def ratios(self, group: Group) -> list[float]:
        """Return the compression ratios of a group in ascending order."""
        rows = self.of(group)
        return sorted(rows.loc[rows["press"] != FULL_CACHE, "ratio"].unique())

    def middle_ratio(self, group: Group) -> float:
        """Return 0.5 if it was measured, otherwise the middle ratio."""
        ratios = self.ratios(group)
        return 0.5 if 0.5 in ratios or not ratios else ratios[len(ratios) // 2]

    def full_cache(self, group: Group, measure: Measure | None = None) -> pd.Series | None:
        """Return the row of the full cache, or None if it was not measured."""
        rows = self.of(group, measure)
        rows = rows[rows["press"] == FULL_CACHE]
        return rows.iloc[0] if len(rows) else None


def summarise(study: Results) -> Summary:
    """Compute everything that the report shows."""
    groups: list[Group] = []
    parts: list[pd.DataFrame] = []
    for benchmark in study.benchmarks:
        of_benchmark = study.rows[study.rows["benchmark"] == benchmark.name]
        for length in sorted(of_benchmark["length"].unique()):
            rows = of_benchmark[of_benchmark["length"] == length]
            tasks = tuple(dict.fromkeys(rows["task"]))
            groups.append(Group(benchmark, int(length), rows["sample"].nunique(), tasks))
            costs = _costs(rows)
            for measure in benchmark.measures:
                part = _pooled(rows) if measure.name == POOLED else _means(rows, measure)
                if not part.empty:
                    part = part.join(costs, on=CELL)
                    parts.append(part.assign(benchmark=benchmark.name, length=int(length), measure=measure.name))
    table = pd.concat(parts, ignore_index=True)
    front = ["benchmark", "length", "measure", "task", *CELL]
    return Summary(study, groups, table[[*front, *(name for name in table.columns if name not in front)]])


def _costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return memory and time of each press and ratio."""
    cells = rows.groupby(CELL)
    sums = cells[
        ["tokens_kept", "context_tokens", "bytes_held", "bytes_full", "press_seconds", "prefill_seconds"]
    ].sum()
    return pd.DataFrame(
        {
            "kept_percent": 100 * sums["tokens_kept"] / sums["context_tokens"],
            "held_percent": 100 * sums["bytes_held"] / sums["bytes_full"],
            "press_seconds": cells["press_seconds"].mean(),
            "prefill_seconds": cells["prefill_seconds"].mean(),
            "overhead_percent": 100
            * sums["press_seconds"]
            / sums["prefill_seconds"].where(sums["prefill_seconds"] > 0),
            "masked": cells["masked"].any(),
        }
    )


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the 95th percentile of KL over all tokens of each press and ratio."""
    if "token_kl" not in rows or rows["token_kl"].isna().all():
        return pd.DataFrame()
    cells = rows.dropna(subset="token_kl").groupby(CELL)["token_kl"]
    table = pd.DataFrame(
        {"mean": cells.apply(lambda lists: pooled_percentile(list(lists), 95)), "samples": cells.size()}
    )
    return table.reset_index().assign(task=ALL_TASKS, complete=True)


def _means(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return means and intervals for all tasks, with differences, and means of each task."""
    column = f"measure_{measure.name}"
    known = rows.dropna(subset=column)
    if known.empty:
        return pd.DataFrame()
    values = known.pivot(index="sample", columns=CELL, values=column)
    tasks = known.drop_duplicates("sample").set_index("sample")["task"].loc[values.index]
    overall = intervals(values, tasks)
    # The full cache comes first in a run, so an interrupted run may have it for samples without any press.
    compressed = overall.drop(FULL_CACHE, level="press", errors="ignore")
    overall["complete"] = overall["samples"] == (compressed if len(compressed) else overall)["samples"].max()
    overall = overall.join(_against_best_other(values, tasks, overall, measure)).reset_index().assign(task=ALL_TASKS)
    cells = known.groupby(["task", *CELL])[column]
    each = pd.DataFrame({"mean": cells.mean(), "samples": cells.size()}).reset_index().assign(complete=True)
    return pd.concat([overall, each] if len(set(tasks)) > 1 else [overall], ignore_index=True)


def _against_best_other(
    values: pd.DataFrame, tasks: pd.Series, overall: pd.DataFrame, measure: Measure
) -> pd.DataFrame:
    """Return each press's difference from the best other press at its ratio, over the samples that both have."""
    pairs: dict[tuple[str, float], tuple[str, pd.Series]] = {}
    for ratio in values.columns.get_level_values("ratio").unique():
        at_ratio = overall.xs(ratio, level="ratio").drop(FULL_CACHE, errors="ignore")
        whole = at_ratio[at_ratio["complete"]]
        for press in at_ratio.index:
            # A mean over fewer samples may look better only because difficult samples are missing.
            others = (
                whole.drop(press, errors="ignore") if len(whole.drop(press, errors="ignore")) else at_ratio.drop(press)
            )
            rival = best(others["mean"], measure.higher_is_better)
            if rival is not None:
                pairs[press, ratio] = (rival, values[press, ratio] - values[rival, ratio])
    columns = ["best_other", "difference", "difference_low", "difference_high", "verdict"]
    if not pairs:
        return pd.DataFrame(columns=columns, index=overall.index[:0])
    differences = pd.DataFrame({key: series for key, (_, series) in pairs.items()})
    differences.columns = pd.MultiIndex.from_tuples(pairs, names=CELL)
    bounds = intervals(differences, tasks)
    verdicts = [
        verdict(low, high, measure.higher_is_better) for low, high in zip(bounds["low"], bounds["high"], strict=True)
    ]
    return pd.DataFrame(
        {
            "best_other": [rival for rival, _ in pairs.values()],
            "difference": bounds["mean"],
            "difference_low": bounds["low"],
            "difference_high": bounds["high"],
            "verdict": verdicts,
        },
        index=bounds.index,
    )


def axis_range(values: np.ndarray, measure: Measure) -> tuple[float, float]:
    """Return the range of colours: 0 to 100 for percentages, otherwise the range of the data."""
    if measure.percent:
        return 0.0, 100.0
    return float(np.nanmin(values)), float(np.nanmax(values))
