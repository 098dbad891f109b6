"""RULER's metric as computed by kvpress: the share of the references that an answer contains."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evaluation.rows import Row

_CONTROL = re.compile(r"[\x00-\x1f]")


def share_found(row: Row, prediction: str) -> float:
    """Return the share of the references that is found, ignoring case; for "qa" tasks 1 if any is found."""
    # Control characters are removed, not replaced: a reference split over two lines counts, as in kvpress.
    said = _CONTROL.sub("", prediction.strip()).strip().lower()
    found = [float(reference.lower() in said) for reference in row.answer]
    return max(found) if row.task.split("_")[0] == "qa" else sum(found) / len(found)


def string_match(rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return ``{task: {"string_match": percent}}``, rounded to 2 decimals, the tasks in alphabetical order."""
    shares: dict[str, list[float]] = {}
    for row, prediction in zip(rows, predictions, strict=True):
        shares.setdefault(row.task, []).append(share_found(row, prediction))
    return {task: {"string_match": round(sum(all_) / len(all_) * 100, 2)} for task, all_ in sorted(shares.items())}
