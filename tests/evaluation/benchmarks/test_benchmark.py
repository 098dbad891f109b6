"""Selected tasks keep the benchmark's order."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.benchmark import chosen_tasks


def test_all_tasks_or_those_that_are_wanted():
    assert chosen_tasks("set", None, ("a", "b")) == ["a", "b"]
    assert chosen_tasks("set", ("c", "a"), ("a", "b", "c")) == ["a", "c"]


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(ValueError, match="unknown set task 'hotpot': did you mean hotpotqa"):
        chosen_tasks("set", ("hotpot",), ("hotpotqa", "qasper"))
