"""ZeroSCROLLS."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks.benchmark import AnswerBenchmark, Request, chosen_tasks
from evaluation.benchmarks.columns import NOTHING, TEXT
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.rows import Row

SOURCE = Source("zero_scrolls", "simonjegou/zero_scrolls", answer_kinds=(TEXT, NOTHING))
TASKS = (
    "gov_report",
    "summ_screen_fd",
    "qmsum",
    "qasper",
    "narrative_qa",
    "quality",
    "musique",
    "squality",
    "space_digest",
    "book_sum_sort",
)


class ZeroScrolls(AnswerBenchmark):
    """Summaries, questions and aggregation over long texts, without training examples.

    Shaham et al., "ZeroSCROLLS: A Zero-Shot Benchmark for Long Text Understanding" (arXiv:2305.14196).

    Notes
    -----
    The correct answers are not public, so nothing can be measured here. Submit the predictions to its site,
    https://www.zero.scrolls-benchmark.com.
    """

    name = "zero_scrolls"
    measures = ()

    def rows(self, request: Request) -> list[Row]:
        tasks = chosen_tasks(self.name, request.tasks, TASKS)
        return [row for row in load_rows(SOURCE, request.data) if row.task in tasks]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
        return {}
