"""InfiniteBench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.by_task import Answered, one_or_all
from evaluation.benchmarks.columns import NUMBERS, TEXTS
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.infinitebench.metrics import SCORERS, as_judged
from evaluation.rows import Row

SOURCE = Source(
    "infinitebench",
    "MaxJeblick/InfiniteBench",
    answer_kinds=(TEXTS, NUMBERS),
    config_per_task=True,
)


class InfiniteBench(AnswerBenchmark):
    """Search, books, dialogues, code and sums over texts of about 100,000 tokens and more.

    Zhang et al., "∞Bench: Extending Long Context Evaluation Beyond 100K Tokens" (arXiv:2402.13718).

    Notes ----- kvpress's metric fails on "longbook_sum_eng", and on text answers where it expects numbers or the name
    of a function. Here the summary is evaluated with ROUGE-Lsum, and such answers are parsed as numbers or looked up
    among the question's options, as in the paper's code.
    """

    name = "infinitebench"
    measures = (Measure("score", "score (%)", True),)

    def rows(self, request: Request) -> list[Row]:
        return [
            replace(row, answer=as_judged(task, row.answer, row.question))
            for task in chosen_tasks(self.name, request.tasks, tuple(SCORERS))
            for row in load_rows(SOURCE, request.data, task, task)
        ]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"score": 100 * SCORERS[row.task](prediction, row.answer)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> float | dict[str, float]:
        return one_or_all(rows, predictions, _mean)


def _mean(task: str, answered: Answered) -> float:
    return sum(SCORERS[task](prediction, row.answer) for row, prediction in answered) / len(answered)
