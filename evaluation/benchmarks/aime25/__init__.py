"""AIME 2025."""

from __future__ import annotations

from evaluation.benchmarks.boxed import BOX, BoxedAnswers
from evaluation.benchmarks.columns import TEXT, WHOLE_NUMBER
from evaluation.benchmarks.hub import Source


class AIME25(BoxedAnswers):
    """The 30 problems of the American Invitational Mathematics Examination of 2025, parts I and II.

    Set by the Mathematical Association of America; Balunović et al., "MathArena: Evaluating LLMs on Uncontaminated Math
    Competitions" (arXiv:2505.23281), made it a benchmark. The records are those of ``opencompass/AIME2025``.
    """

    name = "aime25"
    source = Source("aime25", "alessiodevoto/aime25", answer_kinds=(TEXT, WHOLE_NUMBER))

    def boxed(self, prediction: str) -> str:
        # The last box or, without a box, the full text: as in kvpress, a correct number alone counts.
        return prediction.split(BOX)[-1].split("}")[0]
