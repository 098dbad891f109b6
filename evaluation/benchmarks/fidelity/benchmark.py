"""Contexts with a continuation that no press sees, evaluated by the model's predictions along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.benchmarks.benchmark import Benchmark, Measure, Request, chosen_tasks, drawn
from evaluation.benchmarks.fidelity.samples import TASKS, TASKS_BY_NAME, make_row
from evaluation.benchmarks.fidelity.summary import summarise
from evaluation.rows import Row


class Fidelity(Benchmark):
    """Teacher-forced predictions from the compressed cache against those from the full one.

    Six tasks, on the Python language reference and the source of its library, on which nothing in pikvpress was chosen:
    one needle (a number to recall), one of several ("multi_key"), several of one name ("multi_value"), pairs of keys
    and values, and continuations of prose and of code. A question comes after the text, so a press can only guess what
    will be needed. The Kullback-Leibler divergence is computed after every token of question, answer or continuation.
    It is a sensitive measure where a small model's answers are mostly wrong with any cache.

    Two other kinds of text are available by name: Paul Graham's essays ("essays_needle",
    "essays_multi_key", "essays_multi_value", "essays_prose") and the King James Bible ("scripture_needle", ...).
    """

    name = "fidelity"
    by_length = True
    generated = True
    teacher_forced = True
    measures = (
        Measure("kl", "KL divergence (nats/token)", False),
        Measure("kl_p95", "KL divergence, 95th percentile over tokens (nats)", False),
        Measure("top1", "top-1 agreement (%)", True),
        Measure("log_perplexity_ratio", "log perplexity ratio", False),
    )

    def rows(self, request: Request) -> list[Row]:
        """Return `Request.samples` rows per task, each as long as `Request.length` allows."""
        tasks = chosen_tasks(self.name, request.tasks or TASKS, tuple(TASKS_BY_NAME))
        return drawn(request, tasks, make_row)

    def summary(self, rows: Sequence[Row], figures: Sequence[Mapping[str, object]]) -> dict[str, dict[str, float]]:
        """Return the contents of ``metrics.json``, by task and for all tasks.

        Parameters
        ----------
        rows : sequence of Row
            The samples.
        figures : sequence of mapping
            Of each sample: "measures" as `Comparison.measures`, and "token_kl".
        """
        return summarise([row.task for row in rows], figures)
