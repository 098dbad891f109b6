"""LongBench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.by_task import Answered, one_or_all
from evaluation.benchmarks.columns import NOTHING, TEXTS
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.longbench.metrics import FIRST_LINE, SCORERS, best_score
from evaluation.rows import Row

SOURCE = Source(
    "longbench",
    "Xnhyacinth/LongBench",
    answer="answers",
    answer_kinds=(TEXTS,),
    extras={"all_classes": (TEXTS, NOTHING)},
    config_per_task=True,
)
CHINESE = ("multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh")
TASKS = tuple(task for task in SCORERS if task not in CHINESE)


class LongBench(AnswerBenchmark):
    """Questions, summaries, few-shot learning, search and code over texts of 1,000 to 20,000 words.

    Bai et al., "LongBench: A Bilingual, Multitask Benchmark for Long Context Understanding" (arXiv:2308.14508).

    Notes ----- By default the 16 English tasks in kvpress's hub repository are run; the five Chinese tasks are also
    supported if requested by name.
    """

    name = "longbench"
    measures = (Measure("score", "score (%)", True),)

    def rows(self, request: Request) -> list[Row]:
        wanted = TASKS if request.tasks is None else request.tasks
        tasks = chosen_tasks(self.name, wanted, tuple(SCORERS))
        return [row for task in tasks for row in load_rows(with_classes(SOURCE, task), request.data, task, task)]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"score": 100 * self._share(row, prediction)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> float | dict[str, float]:
        return one_or_all(rows, predictions, self._mean)

    def _share(self, row: Row, prediction: str) -> float:
        text = prediction.lstrip()
        if row.task in FIRST_LINE:
            text = text.split("\n")[0]
        return best_score(row.task, text, row.answer, row.extras["all_classes"])

    def _mean(self, task: str, answered: Answered) -> float:
        total = 0.0
        for row, prediction in answered:
            total += self._share(row, prediction)  # not sum(), which uses compensated summation since Python 3.12
        return round(100 * total / len(answered), 2)


def with_classes(source: Source, task: str) -> Source:
    """Return the source; for classification tasks, each record must have the classes."""
    extras: dict[str, Any] = {**source.extras}
    if task in ("trec", "lsht"):
        extras["all_classes"] = (TEXTS,)
    return replace(source, extras=extras)
