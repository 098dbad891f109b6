"""Records in files: their location in a folder, and reading of each format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet

FORMATS = ("parquet", "jsonl", "json", "csv")
SPLIT = "test"


@dataclass(frozen=True)
class Found:
    """Files of records.

    Parameters
    ----------
    files : tuple of Path
        Files of one format.
    own : bool
        Whether they contain only the requested configuration; otherwise they may also contain others.
    """

    files: tuple[Path, ...]
    own: bool


def find_files(folder: Path, config: str | None) -> Found:
    """Return the files of a configuration: ``<config>/*``, ``<config>.*``, or the files in ``data`` or in the folder.

    If there are several splits, the split "test" is used; if there are several formats, the first of parquet, jsonl,
    json and csv.

    Raises
    ------
    FileNotFoundError
        If the folder, or a file in it, is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: pass the one with the data")
    if config is not None:
        own = _in_folder(folder / config) or _single(folder, config)
        if own:
            return Found(own, True)
    files = _in_folder(folder / "data") or _in_folder(folder)
    if not files:
        wanted = f"{config}/*, {config}.* or files straight in it" if config else "files straight in it or in data/"
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise FileNotFoundError(f"{folder} holds {there}, but not {wanted} ({', '.join(FORMATS)})")
    return Found(files, config is None)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, columns by name. In CSV all cells are text.

    Raises
    ------
    ValueError
        If the contents do not match the file's suffix.
    """
    try:
        records = _READERS[path.suffix[1:]](path)
    except (ValueError, pyarrow.ArrowException) as error:  # both JSON's and pandas' errors are ValueErrors
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} must hold records, a list of objects with columns by name")
    return records


def _in_folder(folder: Path) -> tuple[Path, ...]:
    for suffix in FORMATS:
        files = sorted(folder.glob(f"*.{suffix}"))
        if files:
            return tuple([file for file in files if file.name.startswith(SPLIT)] or files)
    return ()


def _single(folder: Path, config: str) -> tuple[Path, ...]:
    return tuple([path for suffix in FORMATS if (path := folder / f"{config}.{suffix}").is_file()][:1])


def _read_lines(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


_READERS = {
    "parquet": lambda path: pyarrow.parquet.read_table(path).to_pylist(),
    "jsonl": _read_lines,
    "json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    "csv": lambda path: pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"),
}
