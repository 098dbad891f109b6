"""Clozes: names for masks, as a Python dictionary. The published scorer runs it as code; here it is parsed."""

from __future__ import annotations

import ast
import warnings
from typing import Any


def exact_match(answer: str, prediction: str) -> tuple[int, int]:
    """Return the number of masks with exactly the correct name, and the total number.

    A prediction that is not a dictionary counts as one mask, as published.
    """
    truth, names = _truth(answer), _literal(prediction)
    if not isinstance(names, dict):
        return 0, 1
    return sum(names.get(mask) == name for mask, name in truth.items()), len(truth)


def partial_match(answer: str, prediction: str) -> tuple[int, int]:
    """Return the number of masks whose name shares a word with the correct one, and the total number."""
    truth, names = _truth(answer), _literal(prediction)
    if not isinstance(names, dict):
        return 0, len(truth)
    try:
        shared = [set(name.split()) & set(names[mask].split()) for mask, name in truth.items() if mask in names]
    except AttributeError:  # a value that is not text fails the entire answer, as published
        return 0, len(truth)
    return sum(map(bool, shared)), len(truth)


def _truth(answer: str) -> dict[str, str]:
    truth = _literal(answer)
    if not isinstance(truth, dict) or not truth:
        raise ValueError(f"a cloze's answer must be a dictionary of masks, not {answer!r:.60}: check the data")
    return truth


def _literal(text: str) -> Any:
    """Return the value of a Python literal; None for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's warnings about the model's syntax
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
