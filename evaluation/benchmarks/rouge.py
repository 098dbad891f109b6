"""ROUGE, as computed by the library `rouge`."""

from __future__ import annotations

from functools import cache
from typing import Any

from evaluation.benchmarks.extra import extra

Scores = dict[str, dict[str, float]]


@cache
def _scorer() -> Any:
    return extra("rouge").Rouge()


def rouge(hypothesis: str, reference: str) -> Scores | None:
    """Return recall, precision and F ("r", "p", "f") of "rouge-1", "rouge-2" and "rouge-l", all in [0, 1].

    None if the library fails: one side has no words, or the texts are too long for its recursion. The published scorers
    count this as 0.
    """
    try:
        return _scorer().get_scores(hypothesis, reference)[0]
    except (ValueError, RecursionError):
        return None
