"""The most frequent words of an artificial language: RULER's "fwe"."""

from __future__ import annotations

import math
import random
import string

from evaluation.benchmarks.ruler.draws import distinct, letters
from evaluation.benchmarks.ruler.fit import Generator
from evaluation.benchmarks.ruler.templates import FREQUENT_WORDS
from evaluation.rows import Row

LETTERS = 6
ZETA_OF_2 = math.pi**2 / 6
# From here on the fourth word is always more frequent than the fifth, so that the three asked for are the only answer.
LEAST_WORDS = 53


class FrequentWords(Generator):
    """Coded words whose frequencies decrease with the square of their rank; RULER (https://arxiv.org/abs/2404.06654).

    The most frequent word is three dots, which the question asks to ignore; the answer is the next three words. The
    vocabulary has one word per 50 tokens.
    """

    def least(self, index: int) -> int:
        return LEAST_WORDS

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        size = max(5, (self.length - FREQUENT_WORDS.max_new_tokens) // 50)
        coded = distinct(lambda: letters(rng, string.ascii_lowercase, LETTERS), size - 1)
        text = []
        for rank, word in enumerate(["...", *coded], start=1):
            text += [word] * int(units * rank**-2.0 / ZETA_OF_2)
        rng.shuffle(text)
        return FREQUENT_WORDS.row(self.task, coded[:3], context=" ".join(text))
