"""Paul Graham's essays as a haystack with any number of words, split into sentences."""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice

from evaluation.texts import essays


@cache
def essay_sentences() -> tuple[str, ...]:
    """Return the essays' sentences with collapsed white space.

    RULER uses nltk's English punkt model, which must be downloaded; the untrained splitter differs from it only after
    abbreviations.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return tuple(PunktSentenceTokenizer().tokenize(" ".join(essays().split())))


def sentences(words: int, start: int = 0) -> list[str]:
    """Return the sentences of the first words; the last one may be truncated.

    Parameters
    ----------
    words : int
        Number of words; the essays are repeated if necessary.
    start : int, default=0
        Index of the first sentence.
    """
    found, left = [], words
    for sentence in islice(cycle(essay_sentences()), start, None):
        if left <= 0:
            break
        parts = sentence.split(" ")
        found.append(" ".join(parts[:left]))
        left -= len(parts)
    return found
