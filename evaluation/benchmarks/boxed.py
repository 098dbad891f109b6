"""Competition problems whose answer is in a LaTeX box."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.rows import Row

BOX = "boxed{"


class BoxedAnswers(AnswerBenchmark):
    """A set with one task; an answer is correct if the contents of its box, up to the first brace, are correct."""

    measures = (Measure("correct", "correct (%)", True), Measure("answered", "answered (%)", True))
    source: ClassVar[Source]

    @abstractmethod
    def boxed(self, prediction: str) -> str | None:
        """Return the answer in the prediction."""

    def rows(self, request: Request) -> list[Row]:
        chosen_tasks(self.name, request.tasks, (self.name,))
        return load_rows(self.source, request.data, task=self.name)

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {
            "correct": 100.0 * (self.boxed(prediction) == str(row.answer)),
            "answered": 100.0 * (BOX in prediction),
        }

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
        scores = [self.score(row, text) for row, text in zip(rows, predictions, strict=True)]
        correct, answered = (sum(score[name] > 0 for score in scores) for name in ("correct", "answered"))
        return {"correct": correct, "answered": answered, "accuracy": correct / len(scores), "total": len(scores)}
