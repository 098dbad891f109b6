"""Which values columns may hold."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.columns import NOTHING, NUMBERS, TEXT, TEXTS, WHOLE_NUMBER, check_record, from_csv, kind_of


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, NOTHING),
        ("a", TEXT),
        (3, WHOLE_NUMBER),
        (True, "bool"),
        (1.5, "float"),
        (["a", "b"], TEXTS),
        ([1, 2.5], NUMBERS),
        (["a", 1], "a list of mixed things"),
        ([], "an empty list"),
    ],
)
def test_kinds(value, kind):
    assert kind_of(value) == kind


def test_records_that_break_their_columns_are_told_where_and_how():
    columns = {"a": (TEXT,), "b": (NUMBERS, NOTHING)}
    check_record({"a": "x", "b": None, "more": 1}, columns, "row 3")
    with pytest.raises(ValueError, match="row 3: column 'b' is missing; needed are a, b; there are a"):
        check_record({"a": "x"}, columns, "row 3")
    with pytest.raises(TypeError, match="row 3: column 'b' must hold a list of numbers or nothing, not text"):
        check_record({"a": "x", "b": "y"}, columns, "row 3")


def test_cells_of_csv_mean_what_their_column_allows():
    assert from_csv("[1, 2]", (TEXT,)) == "[1, 2]" and from_csv("[1, 2]", (NUMBERS,)) == [1, 2]
    assert from_csv("", (NUMBERS, NOTHING)) is None and from_csv("x", (NUMBERS,)) == "x"
