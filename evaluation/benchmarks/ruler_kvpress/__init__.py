"""RULER as on kvpress's leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks.benchmark import Request, chosen_tasks
from evaluation.benchmarks.columns import TEXTS
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.ruler import GENERATORS, Ruler
from evaluation.rows import Row

SOURCE = Source("ruler-kvpress", "simonjegou/ruler", answer_kinds=(TEXTS,))


class RulerKvpress(Ruler):
    """RULER's thirteen tasks from a fixed set of 500 rows each, generated with Llama 3.1's tokenizer.

    Hsieh et al., "RULER: What's the Real Context Size of Your Long-Context Language Models?" (arXiv:2404.06654).
    kvpress's set has the lengths 4096, 8192 and 16384, in tokens of Llama 3.1 for every model.
    """

    name = SOURCE.benchmark
    generated = False

    def rows(self, request: Request) -> list[Row]:
        if request.length is None:
            raise ValueError("kvpress's RULER set has several lengths: pass one, such as 4096")
        tasks = chosen_tasks(self.name, request.tasks, list(GENERATORS))
        return [row for row in load_rows(SOURCE, request.data, config=str(request.length)) if row.task in tasks]

    def label(self, tasks: Sequence[str]) -> str:
        """Return kvpress's name of the set if it includes all tasks."""
        return super().label(tasks).replace(self.name, "ruler")
