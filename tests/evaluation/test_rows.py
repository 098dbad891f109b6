"""Rows reject values that make no sense in any benchmark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.rows import Row

ROW = Row("A text.", "Why?", "", ["x"], 5, "task")


def test_rows_may_lack_question_and_prefix():
    assert replace(ROW, question="").chat and not replace(ROW, chat=False).extras


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"context": None}, TypeError, "context must be text, not NoneType"),
        ({"task": 3}, TypeError, "task must be text, not int"),
        ({"context": " "}, ValueError, "a row of task 'task' has an empty context"),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens must be an integer, not bool"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_others_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        replace(ROW, **change)
