"""Reading and validation of samples on disk, line by line, into flat rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.report.contents import MeasuredBenchmark, Press
from evaluation.samples import content
from evaluation.schema import FULL_CACHE, NUMBERS, TEXTS


def read_lines(path: Path, cut: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a file with their numbers; if the last one is half-written, add the file's name to `cut`.

    Raises
    ------
    ValueError
        If any other line is not a JSON object.
    """
    lines = content(path).decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            # A run that was killed leaves a last line without a line break; anything else is damage.
            if number == len(lines):
                cut.append(f"{path.parent.name}/{path.name}")
                return
            raise ValueError(f"{path}, line {number} is not JSON ({error}): fix or remove the line") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number} is {type(value).__name__}, not a JSON object: fix or remove it")
        yield number, value


def record_of(
    path: Path, number: int, line: dict[str, Any], benchmarks: Sequence[MeasuredBenchmark], presses: Sequence[Press]
) -> dict[str, Any]:
    """Return a checked line as a flat row.

    Raises
    ------
    ValueError
        If something is missing, not a finite number, or not in `study.yaml`.
    """

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path}, line {number}: {what}")

    missing = [key for key in [*TEXTS, *NUMBERS, "measures", "masked"] if key not in line]
    if missing:
        raise refuse(f"lacks {', '.join(missing)}")
    for key in NUMBERS:
        if not _finite(line[key]) and not (key == "ratio" and line[key] is None):
            raise refuse(f"{key} is {line[key]!r}, not a finite number")
    length = line.get("length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise refuse(f"length is {length!r}, not a positive integer or null")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == line["benchmark"]), None)
    if benchmark is None:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise refuse(f"benchmark {line['benchmark']!r} is not in study.yaml, which has {names}")
    if line["press"] not in (FULL_CACHE, *(press.name for press in presses)):
        names = ", ".join(press.name for press in presses)
        raise refuse(f"press {line['press']!r} is not in study.yaml, which has {names}")
    if not isinstance(line["measures"], dict) or benchmark.main.name not in line["measures"]:
        raise refuse(f"measures lack {benchmark.main.name}, the main measure of {benchmark.name}")
    for name, value in line["measures"].items():
        if not _finite(value):
            raise refuse(f"measure {name} is {value!r}, not a finite number")
    row = {key: line[key] for key in [*TEXTS, *NUMBERS]}
    row.update(length=length or 0, masked=bool(line["masked"]))
    row.update(folder=str(path.parent), file=str(path), line=number)
    row.update({f"measure_{m.name}": line["measures"].get(m.name, math.nan) for m in benchmark.measures})
    if line.get("token_kl"):
        row["token_kl"] = np.asarray(line["token_kl"], dtype=np.float32)
    return row


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
