"""The tables that the demo prints."""

from __future__ import annotations

import io

from rich.console import Console

from pikvpress.demo import DemoQuestion, Result, answers_table, results_table
from pikvpress.demo.table import is_right


def text(table):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_answers_are_right_if_they_contain_what_was_asked_for():
    assert is_right("It is 7,316,042.", DemoQuestion("?", "7316042"))
    assert not is_right("It is 731604.", DemoQuestion("?", "7316042"))
    assert not is_right("anything", DemoQuestion("?"))


def test_the_table_counts_right_answers_and_bytes():
    result = Result("MoERouterPress", 0.5, ["a blue one", "none"], 1924, 2**24, 2**23, 3.21)
    shown = text(results_table([result], [DemoQuestion("?", "blue"), DemoQuestion("?", "red")], 3825))
    assert "2 questions about a document of 3,825 tokens" in shown
    assert "MoERouterPress" in shown and "50%" in shown and "✓✗ 1/2" in shown
    assert "16.0 -> 8.0" in shown and "1,924" in shown and "3.2" in shown


def test_questions_without_known_answers_are_not_judged():
    result = Result("full cache", 0.0, ["an [answer]"], 10, 2**20, 2**20, 1.0)
    assert "answers" not in text(results_table([result], [DemoQuestion("why?")], 10))
    shown = text(answers_table([result], [DemoQuestion("why?")]))
    assert "why?" in shown and "an [answer]" in shown
