"""Prompts with long continuations, along which a cache is kept within a ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.benchmarks.benchmark import Benchmark, Measure, Request, chosen_tasks, drawn
from evaluation.benchmarks.continuation.samples import TASKS, make_row
from evaluation.benchmarks.fidelity.comparison import Comparison
from evaluation.benchmarks.fidelity.summary import summarise
from evaluation.rows import Row

QUARTERS = ("first", "second", "third", "last")


class Continuation(Benchmark):
    """Teacher-forced predictions while a continuation is read token by token, as if the model generated it.

    Four tasks, on texts on which nothing in pikvpress was chosen: Paul Graham's essays ("prose"), Python's library
    ("code"), its manual as questions and answers ("dialogue"), and "recall": essays in whose continuation facts are
    stated early, and asked for at its end. The whole continuation is measured; with "recall", the questions and answers
    only. The Kullback-Leibler divergence from the predictions of the full cache is computed after every token, and
    averaged over the measured part and each quarter of it.
    """

    name = "continuation"
    by_length = True
    generated = True
    teacher_forced = True
    goes_on = True
    measures = (
        Measure("kl", "KL divergence (nats/token)", False),
        Measure("kl_p95", "KL divergence, 95th percentile over tokens (nats)", False),
        *(Measure(f"kl_{part}", f"KL divergence, {part} quarter (nats/token)", False) for part in QUARTERS),
        Measure("top1", "top-1 agreement (%)", True),
        Measure("log_perplexity_ratio", "log perplexity ratio", False),
        Measure("speed", "speed (tokens/s)", True),
    )

    def rows(self, request: Request) -> list[Row]:
        """Return `Request.samples` rows per task."""
        tasks = chosen_tasks(self.name, request.tasks, TASKS)
        return drawn(request, tasks, make_row)

    def summary(self, rows: Sequence[Row], figures: Sequence[Mapping[str, object]]) -> dict[str, dict[str, float]]:
        """Return the contents of ``metrics.json``, by task and for all tasks; see `Fidelity.summary`."""
        return summarise([row.task for row in rows], figures)


def measured(comparison: Comparison, speed: float) -> dict[str, float]:
    """Return the measures of one sample.

    Parameters
    ----------
    comparison : Comparison
        Of the predictions after every measured token, at least four.
    speed : float
        Tokens per second.
    """
    kl = comparison.token_kl
    cuts = [len(kl) * part // len(QUARTERS) for part in range(len(QUARTERS) + 1)]
    parts = {
        f"kl_{name}": sum(kl[first:last]) / (last - first)
        for name, first, last in zip(QUARTERS, cuts, cuts[1:], strict=False)
    }
    return comparison.measures | parts | {"speed": speed}
