"""Texts as documents of a corpus."""

from __future__ import annotations

import pydoc_data.topics as topics
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from evaluation.texts import scripture

WORDS = 120  # words of a document at most
SUFFIXES = ("*.txt", "*.md", "*.rst")


@cache
def corpus(task: str, folder: Path | None) -> tuple[str, ...]:
    """Return the documents of a task: "manual", "scripture", or "texts" from a folder.

    Raises
    ------
    FileNotFoundError
        If a text is missing.
    """
    if folder is not None:
        files = sorted(file for suffix in SUFFIXES for file in folder.glob(suffix))
        if not files:
            raise FileNotFoundError(f"{folder} holds no texts: rag reads {', '.join(SUFFIXES)} straight in a folder")
        return tuple(documents(file.read_text(encoding="utf-8") for file in files))
    if task == "manual":
        return tuple(documents(text for _, text in sorted(topics.topics.items())))
    return tuple(documents([scripture()]))


def documents(texts: Iterable[str]) -> Iterator[str]:
    """Yield the documents of texts: as many lines as have at most `WORDS` words, or as many words of one line."""
    for text in texts:
        held: list[str] = []
        words = 0
        for line in _lines(text):
            count = len(line.split())
            if held and words + count > WORDS:
                yield "\n".join(held).strip("\n")
                held, words = [], 0
            held.append(line)
            words += count
        if words:
            yield "\n".join(held).strip("\n")


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split()
        if len(words) <= WORDS:
            yield line
        else:
            yield from (" ".join(words[first : first + WORDS]) for first in range(0, len(words), WORDS))
