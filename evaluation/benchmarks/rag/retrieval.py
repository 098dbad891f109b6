"""Finding documents for a question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any


def ranked(documents: tuple[str, ...], question: str, count: int) -> Sequence[int]:
    """Return the numbers of the best documents for a question by BM25, the best first.

    Computed by bm25s (https://arxiv.org/abs/2407.03618).

    Raises
    ------
    ValueError
        If that package is not installed.
    """
    retriever, tokenize = _retriever(documents)
    found, _ = retriever.retrieve(
        tokenize(question, show_progress=False), k=min(count, len(documents)), show_progress=False
    )
    return [int(number) for number in found[0]]


@cache
def _retriever(documents: tuple[str, ...]) -> tuple[Any, Any]:
    try:
        import bm25s
    except ImportError as error:
        raise ValueError("rag finds documents with the package bm25s: run `pip install bm25s`") from error
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(documents), show_progress=False), show_progress=False)
    return retriever, bm25s.tokenize
