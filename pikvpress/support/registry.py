"""Objects by name, with a uniform error for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dictionary of one kind of object, whose error for an unknown name lists the known ones.

    Parameters
    ----------
    kind : str
        What error messages call its entries.
    entries : mapping of str to object, optional
        Initial entries.

    Raises
    ------
    ValueError
        From ``registry[name]`` for an unknown name; the message lists the most similar and all known names.

    Examples
    --------
    >>> codecs = Registry("codec", {"int4": 4, "int8": 8})
    >>> codecs["int5"]
    Traceback (most recent call last):
    ValueError: unknown codec 'int5': did you mean int8 or int4? known are int4, int8
    """

    def __init__(self, kind: str, entries: Mapping[str, T] | None = None):
        super().__init__(entries or {})
        self.kind = kind

    def __missing__(self, name: str) -> T:
        raise ValueError(unknown(self.kind, name, self))

    def register(self, name: str, entry: T) -> None:
        """Register an entry under a name.

        Raises
        ------
        ValueError
            If the name is already in use.
        """
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
        self[name] = entry


def unknown(kind: str, name: object, known: Iterable[str], more: str = "") -> str:
    """Return the error message for an unknown name; `more` is appended."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}{more}"


def check_name(name: str, known: Iterable[str], kind: str) -> None:
    """Raise a ``ValueError`` unless a name is among the known ones."""
    names = list(known)
    if name not in names:
        raise ValueError(unknown(kind, name, names))
