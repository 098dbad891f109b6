"""F1 of the words or characters that an answer shares with the reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")

# The published list of Chinese punctuation, as ranges of code points. It has the closing 》 but not the opening 《.
CHINESE_RUNS = (
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0x3001, 0x3003),
    (0x300B, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0xFE4F, 0xFE4F),
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
)


def _deleting(characters: Iterable[str]) -> dict[int, None]:
    return dict.fromkeys(map(ord, characters))


ENGLISH = _deleting(string.punctuation)
CHINESE = ENGLISH | _deleting(chr(code) for first, last in CHINESE_RUNS for code in range(first, last + 1))


def normalized(text: str) -> str:
    """Return English text in lower case without punctuation, articles and extra space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(ENGLISH)).split())


def normalized_chinese(text: str) -> str:
    """Return Chinese text in lower case without punctuation and space."""
    return "".join(text.lower().translate(CHINESE).split())


def token_f1(prediction: Sequence[str], truth: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of shared tokens, counted with multiplicity."""
    shared = sum((Counter(prediction) & Counter(truth)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(truth)
    return 2 * precision * recall / (precision + recall)


def english_f1(prediction: str, truth: str) -> float:
    """Return the F1 of English words."""
    return token_f1(normalized(prediction).split(), normalized(truth).split())
