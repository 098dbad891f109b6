"""LongBench-E."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.by_task import Answered, one_or_all
from evaluation.benchmarks.columns import NOTHING, TEXTS, WHOLE_NUMBER
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.longbench import with_classes
from evaluation.benchmarks.longbench.metrics import FIRST_LINE, best_score
from evaluation.rows import Row

SOURCE = Source(
    "longbench-e",
    "Xnhyacinth/LongBench",
    answer="answers",
    answer_kinds=(TEXTS,),
    extras={"all_classes": (TEXTS, NOTHING), "length": (WHOLE_NUMBER,)},
    config_per_task=True,
    suffix="-e",
)
TASKS = (
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "gov_report",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
)
BUCKETS = {"0-4k": (0, 4000), "4-8k": (4000, 8000), "8k+": (8000, float("inf"))}


class LongBenchE(AnswerBenchmark):
    """The part of LongBench with uniformly distributed lengths, evaluated in three buckets of word counts.

    Bai et al., "LongBench: A Bilingual, Multitask Benchmark for Long Context Understanding" (arXiv:2308.14508).
    """

    name = "longbench-e"
    measures = (Measure("score", "score (%)", True),)

    def rows(self, request: Request) -> list[Row]:
        tasks = chosen_tasks(self.name, request.tasks, TASKS)
        return [row for task in tasks for row in load_rows(with_classes(SOURCE, task), request.data, f"{task}_e", task)]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"score": 100 * self._share(row, prediction)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict:
        return one_or_all(rows, predictions, self._buckets)

    def _share(self, row: Row, prediction: str) -> float:
        # Unlike LongBench's scorer, this one keeps leading spaces.
        text = prediction.lstrip("\n").split("\n")[0] if row.task in FIRST_LINE else prediction
        return best_score(row.task, text, row.answer, row.extras["all_classes"])

    def _buckets(self, task: str, answered: Answered) -> dict[str, float]:
        """Return the mean of each bucket; NaN for an empty one."""
        means = {}
        for name, (low, high) in BUCKETS.items():
            shares = [self._share(row, text) for row, text in answered if low <= row.extras["length"] < high]
            means[name] = round(float(100 * numpy.mean(shares)), 2) if shares else float("nan")
        return means
