"""MATH-500."""

from __future__ import annotations

from evaluation.benchmarks.boxed import BOX, BoxedAnswers
from evaluation.benchmarks.columns import TEXT
from evaluation.benchmarks.hub import Source


class Math500(BoxedAnswers):
    """500 problems of the MATH set.

    Hendrycks et al., "Measuring Mathematical Problem Solving With the MATH Dataset" (arXiv:2103.03874); the 500 were
    chosen by Lightman et al., "Let's Verify Step by Step" (arXiv:2305.20050).
    """

    name = "math500"
    source = Source("math500", "alessiodevoto/math500", answer_kinds=(TEXT,))

    def boxed(self, prediction: str) -> str | None:
        _, *boxes = prediction.split(BOX)  # the first box counts, unlike in AIME
        return boxes[0].split("}")[0] if boxes else None
