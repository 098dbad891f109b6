"""Paul Graham's essays as a haystack of any number of words, cut into sentences."""

from __future__ import annotations

from functools import cache
from itertools import cycle, islice

from evaluation.texts import essays


@cache
def essay_sentences() -> tuple[str, ...]:
    """Return the essays' sentences, white space collapsed.

    RULER uses nltk's English punkt model, which is a download; the untrained splitter differs from it after
    abbreviations only.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return tuple(PunktSentenceTokenizer().tokenize(" ".join(essays().split())))


def sentences(words: int, start: int = 0) -> list[str]:
    """Return the sentences that the first so many words make; the last may be cut short.

    Parameters
    ----------
    words : int
        How many; the essays begin again when they run out.
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
