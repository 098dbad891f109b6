"""LongBench v2."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.columns import TEXT
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.rows import Row

CONFIG = "0shot"
SOURCE = Source("longbench-v2", "simonjegou/LongBench-v2", extras={"difficulty": (TEXT,), "length": (TEXT,)})


class LongBenchV2(AnswerBenchmark):
    """Hard questions with four choices over texts of 8,000 to 2,000,000 words.

    Bai et al., "LongBench v2: Towards Deeper Understanding and Reasoning on Realistic Long-context Multitasks"
    (arXiv:2412.15204).
    """

    name = "longbench-v2"
    measures = (Measure("correct", "correct (%)", True),)

    def rows(self, request: Request) -> list[Row]:
        tasks = chosen_tasks(self.name, request.tasks, (CONFIG,))
        return [row for task in tasks for row in load_rows(SOURCE, request.data, CONFIG, task)]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"correct": 100.0 * is_correct(prediction, row.answer)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
        correct = [is_correct(text, row.answer) for row, text in zip(rows, predictions, strict=True)]
        result = {"average": sum(correct) / len(correct)}
        for column in SOURCE.extras:
            for value in sorted({row.extras[column] for row in rows}):
                of_value = [right for row, right in zip(rows, correct, strict=True) if row.extras[column] == value]
                result[value] = sum(of_value) / len(of_value)
        return result


def is_correct(prediction: str, answer: str) -> bool:
    """Return whether the prediction gives the correct answer in the format that the prompt requests."""
    text = prediction.replace("*", "")
    return any(f"The correct answer is {choice}" in text for choice in (f"({answer})", answer))
