"""Read study folders: `study.yaml` describes what was run, and sample files have one result per line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from evaluation import schema
from evaluation.labels import checked_labels
from evaluation.report.contents import MeasuredBenchmark, Press, Results
from evaluation.report.lines import read_lines, record_of
from evaluation.samples import JOURNALS, PACKED, sample_files
from evaluation.schema import FULL_CACHE, Measure

KEY = list(schema.KEY)
FACTS = ["model", "seed", "query_aware", "versions", "machine", "date", "commit", "command"]
STUDY_KEYS = [*FACTS, "benchmarks", "presses", "ratios"]


def load(folders: Sequence[Path]) -> Results:
    """Read and merge study folders of one model and seed.

    Raises
    ------
    ValueError
        If a folder has no results, a line is invalid, a result occurs twice, or the folders do not belong together.
    """
    if not folders:
        raise ValueError("no results folder was given: pass at least one folder written by `python -m evaluation run`")
    heads = [_read_head(Path(folder)) for folder in folders]
    for folder, head in zip(folders, heads, strict=True):
        for name in ("model", "seed", "query_aware"):
            if head[name] != heads[0][name]:
                raise ValueError(
                    f"{folder} has {name} {head[name]!r}, but {folders[0]} has {heads[0][name]!r}: only studies with "
                    "the same model, seed and query_aware can share a report; write one report for each"
                )
    benchmarks = _merge_benchmarks(heads)
    presses = _merge([Press(entry["name"], entry["unit"], entry["masks"]) for h in heads for entry in h["presses"]])
    records: list[dict[str, Any]] = []
    cut: list[str] = []
    for folder in folders:
        paths = sample_files(Path(folder))
        if not paths:
            raise ValueError(f"{folder} has neither {JOURNALS} nor {PACKED}: run the benchmark before its report")
        for path in paths:
            lines = list(read_lines(path, cut))
            records += [record_of(path, number, line, benchmarks, presses) for number, line in lines]
    if not records:
        raise ValueError(f"no results in {', '.join(map(str, folders))}: run the benchmark before its report")
    # Restarted processes may divide samples differently; as there, the first result counts.
    found = pd.DataFrame(records)
    planned = _planned(heads)
    for key, count in _full_cache_again(found).groupby(["benchmark", "length"]).size().items():
        planned[key] = planned.get(key, 0) - count  # samples in two folders
    rows = _with_reached_ratios(_without_repeats(found))
    seen = set(rows["press"])
    return Results(
        facts={name: _agreed([head[name] for head in heads]) for name in FACTS},
        benchmarks=[benchmark for benchmark in benchmarks if benchmark.name in set(rows["benchmark"])],
        presses=[press for press in presses if press.name in seen and press.name != FULL_CACHE],
        rows=rows,
        notes=_missing_results(rows, cut, planned),
        labels=_labels(folders, heads, [press.name for press in presses]),
    )


def only(study: Results, presses: Sequence[str]) -> Results:
    """Return a study restricted to some presses and the full cache.

    Raises
    ------
    ValueError
        If a press has no results.
    """
    known = [press.name for press in study.presses]
    unknown = [name for name in presses if name not in known]
    if unknown:
        raise ValueError(f"there are no results of {', '.join(unknown)}; there are results of {', '.join(known)}")
    return replace(
        study,
        presses=[press for press in study.presses if press.name in presses],
        rows=study.rows[study.rows["press"].isin([*presses, FULL_CACHE])].reset_index(drop=True),
    )


def _read_head(folder: Path) -> dict[str, Any]:
    path = folder / "study.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} is not a results folder: it has no study.yaml; pass a folder of `evaluation run`")
    try:
        head = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    missing = [key for key in STUDY_KEYS if key not in (head if isinstance(head, dict) else {})]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it must have {', '.join(STUDY_KEYS)}")
    return head


def _labels(folders: Sequence[Path], heads: list[dict[str, Any]], presses: list[str]) -> dict[str, str]:
    """Return the labels of all folders; the first label of a press is used."""
    labels: dict[str, str] = {}
    for folder, head in zip(folders, heads, strict=True):
        names = [entry["name"] for entry in head["presses"]]
        labels = checked_labels(head.get("labels"), names, f"{folder}/study.yaml") | labels
    return checked_labels(labels, presses, "these folders")


def _merge_benchmarks(heads: list[dict[str, Any]]) -> list[MeasuredBenchmark]:
    entries = [entry for head in heads for entry in head["benchmarks"]]
    return _merge(
        [
            MeasuredBenchmark(e["name"], e["label"], tuple(Measure(**measure) for measure in e["measures"]))
            for e in entries
        ]
    )


def _merge(entries: list[Any]) -> list[Any]:
    """Return each entry once, by name, rejecting different entries with the same name."""
    merged: dict[str, Any] = {}
    for entry in entries:
        if merged.setdefault(entry.name, entry) != entry:
            raise ValueError(f"the folders describe {entry.name!r} differently: {merged[entry.name]} and {entry}")
    return list(merged.values())


def _agreed(values: list[Any]) -> Any:
    """Return the common value of all folders, or the list of different values."""
    different = [value for index, value in enumerate(values) if value not in values[:index]]
    return different[0] if len(different) == 1 else different


def _without_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows without repeats between files of one folder, and without repeats of the full cache.

    All other repeats are rejected. The full cache is part of every study.
    """
    rows = rows.drop(_full_cache_again(rows).index)
    again = rows[rows.duplicated([*KEY, "file"]) | (rows.duplicated(KEY) & ~rows.duplicated([*KEY, "folder"]))]
    if len(again):
        row = again.iloc[0]
        first = rows[(rows[KEY] == row[KEY]).all(axis=1)].iloc[0]
        raise ValueError(
            f"{row['file']}, line {row['line']} repeats {first['file']}, line {first['line']}: {row['press']} at ratio "
            f"{row['ratio']:g} on {row['sample']} of {row['benchmark']}; each result may occur once, so remove one or "
            "omit one folder"
        )
    return rows.drop_duplicates(KEY).drop(columns=["folder", "file", "line"]).reset_index(drop=True)


def _full_cache_again(rows: pd.DataFrame) -> pd.DataFrame:
    """Return results of the full cache that are also in another folder."""
    return rows[(rows["press"] == FULL_CACHE) & rows.duplicated(KEY) & ~rows.duplicated([*KEY, "folder"])]


def _with_reached_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """For presses with a threshold or a size instead of a ratio, set the share of tokens that they removed."""
    unasked = rows["ratio"].isna()
    rows["ratio"] = rows["ratio"].astype(float)
    for _, group in rows[unasked].groupby(["benchmark", "length", "press"]):
        reached = 1 - group["tokens_kept"].sum() / group["context_tokens"].sum()
        rows.loc[group.index, "ratio"] = round(max(0.0, float(reached)), 3)
    return rows


def _planned(heads: list[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """Return the planned number of samples for each benchmark and length, if it is in `study.yaml`."""
    planned: dict[tuple[str, int], int] = {}
    for head in heads:
        for entry in head["benchmarks"]:
            for length, count in entry.get("samples", {}).items():
                key = (entry["name"], int(length) if str(length).isdigit() else 0)
                planned[key] = planned.get(key, 0) + count
    return planned


def _missing_results(rows: pd.DataFrame, cut: list[str], planned: dict[tuple[str, int], int]) -> list[str]:
    """Describe how many samples have results for every press and ratio of their benchmark."""
    complete = 0
    seen: dict[tuple[str, int], int] = {}
    for key, group in rows.groupby(["benchmark", "length"]):
        results = group.groupby("sample").size()
        complete += int((results == len(group[["press", "ratio"]].drop_duplicates())).sum())
        seen[key] = len(results)
    total = sum(max(seen.get(key, 0), planned.get(key, 0)) for key in {*seen, *planned})
    notes = [f"{name} ends in a half-written line, which was ignored." for name in cut]
    if cut or complete < total:
        word = "interrupted" if cut else "incomplete"
        notes.insert(0, f"{word}: {complete} of {total} samples have results of every press and ratio.")
    return notes
