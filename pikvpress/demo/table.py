"""The demo's results as tables."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from pikvpress.demo.facts import DemoQuestion
from pikvpress.demo.run import Result


def results_table(results: list[Result], questions: list[DemoQuestion], tokens: int) -> Table:
    """Return one row per run: which answers are correct, memory before and after, tokens kept, seconds."""
    table = Table(
        title=f"{len(questions)} questions about a document of {tokens:,} tokens",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("press", no_wrap=True)
    table.add_column("removed", justify="right", no_wrap=True)
    judged = all(question.answer is not None for question in questions)
    if judged:
        table.add_column("answers", no_wrap=True)
    for heading in ("KV MiB", "kept", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    ratio = None
    for result in results:
        if ratio is not None and result.ratio != ratio:
            table.add_section()
        ratio = result.ratio
        name = "PiKVPress (of bytes)" if result.name == "PiKVPress" else result.name
        cells = [name, f"{ratio * 100:.4g}%" if ratio else "-"]
        if judged:
            cells.append(_marks(result, questions))
        memory = f"{result.bytes_full / 2**20:.1f} -> {result.bytes_kept / 2**20:.1f}"
        cells += [memory, f"{result.tokens_kept:,}", f"{result.seconds:.1f}"]
        table.add_row(*cells, style="bold" if result.name in ("MoERouterPress", "PiKVPress") else "")
    return table


def answers_table(results: list[Result], questions: list[DemoQuestion]) -> Table:
    """Return all answers, one row per run and question."""
    table = Table(title="answers", show_lines=True)
    for heading in ("question", "press", "answer"):
        table.add_column(heading)
    for index, question in enumerate(questions):
        for result in results:
            name = f"{result.name} {result.ratio:.0%}" if result.ratio else result.name
            table.add_row(escape(question.text), name, escape(result.answers[index].strip()))
    return table


def is_right(answer: str, question: DemoQuestion) -> bool:
    """Return whether an answer contains the expected text."""
    return question.answer is not None and question.answer in answer.replace(",", "")


def _marks(result: Result, questions: list[DemoQuestion]) -> str:
    right = [is_right(answer, question) for answer, question in zip(result.answers, questions, strict=True)]
    marks = "".join("[green]✓[/]" if mark else "[red]✗[/]" for mark in right)
    return f"{marks} {sum(right)}/{len(right)}"
