"""Names that a user typed, against those there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_name(name: str, available: Iterable[str], kind: str) -> None:
    """Do nothing for a known name.

    Raises
    ------
    ValueError
        Otherwise, with near names or all of them.
    """
    known = list(available)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    offer = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"
    raise ValueError(f"unknown {kind}: {name!r}; {offer}")
