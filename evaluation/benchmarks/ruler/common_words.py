"""The most frequent words of a list: RULER's "cwe"."""

from __future__ import annotations

import random
from functools import cache

from evaluation.benchmarks.ruler.draws import distinct, two_words
from evaluation.benchmarks.ruler.fit import Generator
from evaluation.benchmarks.ruler.templates import COMMON_WORDS
from evaluation.rows import Row
from evaluation.texts import words

COMMON = 10
LEAST_WORDS = 20
LONG = 4096  # from here on words are repeated more often


class CommonWords(Generator):
    """A numbered list in which ten words occur more often than the others; RULER (https://arxiv.org/abs/2404.06654).

    Words are the nouns, adjectives and verbs of wonderwords. If a list needs more words than there are, all of them are
    adjective-noun pairs; RULER uses another list of English words in this case, which no wheel contains.
    """

    def least(self, index: int) -> int:
        return LEAST_WORDS

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        if self.length < LONG:
            (example, answer), (text, common) = _listing(rng, 20, 3, 1), _listing(rng, units, 6, 1)
        else:
            (example, answer), (text, common) = _listing(rng, 40, 10, 3), _listing(rng, units, 30, 3)
        before = COMMON_WORDS.text(context=example) + " " + _numbered(answer) + "\n"
        return COMMON_WORDS.row(self.task, common, before=before, context=text)


def _listing(rng: random.Random, count: int, common_times: int, other_times: int) -> tuple[str, list[str]]:
    """Return a shuffled list of repeated words with a given size, and the more frequent words."""
    known = _known_words()
    # All are shuffled and the first ones are taken, so that a longer list begins with the words of a shorter one.
    shuffled = rng.sample(known, len(known))
    chosen = shuffled[:count] if count <= len(known) else distinct(lambda: two_words(rng), count)
    listed = chosen[:COMMON] * common_times + chosen[COMMON:] * other_times
    rng.shuffle(listed)
    return _numbered(listed), chosen[:COMMON]


def _numbered(listed: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))


@cache
def _known_words() -> list[str]:
    return sorted({*words("noun"), *words("adjective"), *words("verb")})
