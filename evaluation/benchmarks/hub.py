"""Rows of the data sets that kvpress evaluates on, from a local folder or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.benchmarks.columns import TEXT, WHOLE_NUMBER, Kinds, check_record, from_csv
from evaluation.benchmarks.files import SPLIT, find_files, read_records
from evaluation.rows import Row

Located = tuple[str, dict[str, Any]]  # a record and its location

COLUMNS: dict[str, Kinds] = {
    "context": (TEXT,),
    "question": (TEXT,),
    "answer_prefix": (TEXT,),
    "max_new_tokens": (WHOLE_NUMBER,),
}


@dataclass(frozen=True)
class Source:
    """Location of a data set, and the columns of its records.

    Parameters
    ----------
    benchmark : str
        Name of the benchmark.
    repository : str
        Name on the hub.
    answer : str
        The column with the correct answer.
    answer_kinds : tuple of str
        Allowed kinds of values in that column.
    extras : mapping, optional
        Additional columns for the metric, and their allowed kinds.
    config_per_task : bool
        Whether each task is a separate configuration on the hub, and therefore a separate folder.
    suffix : str
        Optional suffix of task names in the column "task".
    """

    benchmark: str
    repository: str
    answer: str = "answer"
    answer_kinds: Kinds = (TEXT,)
    extras: Mapping[str, Kinds] = field(default_factory=dict)
    config_per_task: bool = False
    suffix: str = ""


def load_rows(source: Source, data: Path | None, config: str | None = None, task: str | None = None) -> list[Row]:
    """Return the rows of one configuration of a set.

    Parameters
    ----------
    source : Source
        The set.
    data : Path, optional
        A folder with the data: ``<config>/*.parquet``, ``<config>.parquet``, or files directly in it or in ``data``;
        also jsonl, json and csv. By default the hub is used.
    config : str, optional
        Name of the configuration; by default the only one.
    task : str, optional
        The task of the rows; by default from the column "task".

    Raises
    ------
    FileNotFoundError
        If there is no data; the message explains how to get it.
    ValueError, TypeError
        If a column is missing or has an invalid value.
    """
    columns = {**COLUMNS, source.answer: source.answer_kinds, **source.extras}
    if task is None:
        columns["task"] = (TEXT,)
    if data is None:
        records = _from_hub(source, config)
    else:
        try:
            found = find_files(data, config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"benchmark {source.benchmark!r}: {error}. {_how_to_get(source)}") from error
        records = _from_files(found.files, columns)
        if source.config_per_task and task is not None and not found.own:
            records = _of_task(source, list(records), task, config, data)
    rows = [_row(source, task, columns, record, where) for where, record in records]
    if not rows:
        raise FileNotFoundError(
            f"benchmark {source.benchmark!r}: {data or source.repository} holds no records. {_how_to_get(source)}"
        )
    return rows


def _from_files(files: tuple[Path, ...], columns: Mapping[str, Kinds]) -> Iterator[Located]:
    for file in files:
        for number, record in enumerate(read_records(file), 1):
            if file.suffix == ".csv":
                record = {name: from_csv(cell, columns.get(name, (TEXT,))) for name, cell in record.items()}
            yield f"{file}, record {number}", record


def _from_hub(source: Source, config: str | None) -> Iterator[Located]:
    import datasets

    try:
        records = datasets.load_dataset(source.repository, config, split=SPLIT)
    except (OSError, ValueError) as error:  # raised without a network, and for unknown names
        wanted = f"{source.benchmark!r}" + (f" ({config})" if config else "")
        raise FileNotFoundError(
            f"benchmark {wanted}: no folder with its data is given, and it is not available from the hub ({error}). "
            f"{_how_to_get(source)}"
        ) from error
    where = "/".join(filter(None, (source.repository, config)))
    for number, record in enumerate(records, 1):
        yield f"{where}, record {number}", record


def _of_task(source: Source, records: list[Located], task: str, config: str | None, data: Path) -> Iterator[Located]:
    """Return the records of one task from files with several tasks."""
    for where, record in records:
        check_record(record, {"task": (TEXT,)}, where)
    chosen = [(where, record) for where, record in records if record["task"] in (task, config, task + source.suffix)]
    if not chosen:
        there = ", ".join(sorted({record["task"] for _, record in records})) or "none"
        raise FileNotFoundError(
            f"benchmark {source.benchmark!r}: {data} has no {config}/ and no record of task {task!r}; its records are "
            f"of: {there}. Choose among these tasks, or get the others. {_how_to_get(source)}"
        )
    return iter(chosen)


def _row(source: Source, task: str | None, columns: Mapping[str, Kinds], record: dict[str, Any], where: str) -> Row:
    check_record(record, columns, where)
    try:
        return Row(
            context=record["context"],
            question=record["question"],
            answer_prefix=record["answer_prefix"],
            answer=record[source.answer],
            max_new_tokens=record["max_new_tokens"],
            task=record["task"] if task is None else task,
            extras={name: record[name] for name in source.extras},
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _how_to_get(source: Source) -> str:
    return (
        f"With a network connection, run `hf download {source.repository} --repo-type dataset --local-dir DIR`, "
        f"then pass `--data DIR`"
    )
