"""What a table says where something failed."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """Return an error in one line: its class, and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
