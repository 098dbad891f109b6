"""The needle in a haystack: one sentence at each of eleven depths, for the heat map of depth by length."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.ruler.draws import seven_digits
from evaluation.benchmarks.ruler.essay_haystack import essay_sentences, sentences
from evaluation.benchmarks.ruler.fit import Generator, fitted_rows
from evaluation.rows import Row

DEPTHS = {f"depth_{percent:03d}": percent for percent in range(0, 101, 10)}
LEAST_WORDS = 100
MAX_NEW_TOKENS = 16  # seven digits, one token each, and the words before them
INTRODUCTION = "Read the following text and remember the secret number that it tells.\n\n"
NEEDLE = "The secret number of the lighthouse is {number}."
QUESTION = "\n\nWhat is the secret number of the lighthouse? "
ANSWER_PREFIX = "The secret number of the lighthouse is"


@dataclass(frozen=True)
class NeedleAtDepth(Generator):
    """Essays from a random sentence on, with the needle at a sentence boundary.

    After the test of G. Kamradt (https://github.com/gkamradt/LLMTest_NeedleInAHaystack), with different wording.

    Parameters
    ----------
    percent : int
        Share of the essays' words before the needle, to the nearest boundary.
    """

    percent: int

    def least(self, index: int) -> int:
        return LEAST_WORDS

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        number = seven_digits(rng)
        text = sentences(units, start=rng.randrange(len(essay_sentences())))
        text.insert(nearest_boundary(text, self.percent), NEEDLE.format(number=number))
        return Row(INTRODUCTION + " ".join(text), QUESTION, ANSWER_PREFIX, number, MAX_NEW_TOKENS, self.task)


def nearest_boundary(text: Sequence[str], percent: int) -> int:
    """Return the number of sentences before the boundary nearest to a depth, in percent of the words."""
    ends = [0, *accumulate(len(sentence.split(" ")) for sentence in text)]
    wanted = ends[-1] * percent / 100
    after = bisect_left(ends, wanted)
    return after if after == 0 or ends[after] - wanted <= wanted - ends[after - 1] else after - 1


class Needle(AnswerBenchmark):
    """Retrieval of a number from one sentence of a long text, by depth of the sentence.

    The tasks are the depths; lengths are those of several requests.
    """

    name = "needle"
    measures = (Measure("found", "found (%)", higher_is_better=True),)
    by_length = True
    generated = True

    def rows(self, request: Request) -> list[Row]:
        if request.length is None:
            raise ValueError("the needle test needs a length: pass one in tokens, such as 4096")
        if request.samples < 1:
            raise ValueError(f"samples per depth must be at least 1, got {request.samples}")
        rows = []
        for task in chosen_tasks(self.name, request.tasks, list(DEPTHS)):
            rows += fitted_rows(NeedleAtDepth(task, request.length, DEPTHS[task]), request)
        return rows

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"found": 100.0 * (row.answer in prediction)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, float]:
        """Return the mean by depth, from the start of the text to its end."""
        found: dict[str, list[float]] = {}
        for row, prediction in zip(rows, predictions, strict=True):
            found.setdefault(row.task, []).append(self.score(row, prediction)["found"])
        return {task: sum(values) / len(values) for task, values in sorted(found.items())}
