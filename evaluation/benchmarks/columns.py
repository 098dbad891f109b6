"""Allowed values of columns, and error messages for invalid records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

TEXT, WHOLE_NUMBER, TEXTS, NUMBERS, NOTHING = "text", "an integer", "a list of text", "a list of numbers", "nothing"

Kinds = tuple[str, ...]


def kind_of(value: Any) -> str:
    """Return the kind of a value, as used in declarations of columns."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return TEXT
    if isinstance(value, int) and not isinstance(value, bool):
        return WHOLE_NUMBER
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return TEXTS
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            return NUMBERS
        return "a list of mixed things"
    return "an empty list" if value == [] else type(value).__name__


def check_record(record: Mapping[str, Any], columns: Mapping[str, Kinds], where: str) -> None:
    """Check that a record has all columns, each of an allowed kind.

    Raises
    ------
    ValueError
        For a missing column.
    TypeError
        For a value of another kind.
    """
    for name, kinds in columns.items():
        if name not in record:
            there = ", ".join(map(str, record)) or "none"
            raise ValueError(f"{where}: column {name!r} is missing; needed are {', '.join(columns)}; there are {there}")
        kind = kind_of(record[name])
        if kind not in kinds:
            raise TypeError(
                f"{where}: column {name!r} must hold {' or '.join(kinds)}, not {kind} ({record[name]!r:.60})"
            )


def from_csv(cell: str, kinds: Sequence[str]) -> Any:
    """Parse a CSV cell where text is not allowed: nothing, a number, or a list in JSON."""
    if TEXT in kinds:
        return cell
    if not cell:
        return None
    try:
        return json.loads(cell)
    except ValueError:
        return cell
