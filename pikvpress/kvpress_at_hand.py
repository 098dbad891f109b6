"""Whether kvpress is there, and its presses by what they do, for parts of the package that work without it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

kvpress: Any
_failure: ImportError | None = None
try:
    kvpress = import_module("kvpress")
except ImportError as failure:  # not installed, or made for another version of something that it imports
    kvpress, _failure = None, failure


def classes(*names: str) -> tuple[type[Any], ...]:
    """Return classes of kvpress for `isinstance`; none without kvpress, where nothing can be one of them."""
    return () if kvpress is None else tuple(getattr(kvpress, name) for name in names)


BASE = classes("BasePress")
DECODING = classes("DecodingPress")
PREFILL_DECODING = classes("PrefillDecodingPress")
DMS = classes("DMSPress")
# They read the context, or questions about it, a second time, and then use attention weights or the cache.
READ_TWICE = classes("FastKVzipPress", "KVComposePress", "KVgradPress", "KVzipPress")


def is_press(value: object) -> bool:
    """Return whether something is a press of kvpress or pikvpress."""
    return isinstance(value, BASE)


def removes_while_decoding(press: Any) -> bool:
    """Return whether a press removes entries after the prompt, as `DecodingPress` does."""
    return isinstance(press.decoding_press if isinstance(press, PREFILL_DECODING) else press, DECODING)


def masks_while_decoding(press: Any) -> bool:
    """Return whether a press masks entries after the prompt, as `DMSPress` may."""
    return isinstance(press, DMS) and press.decoding


def needed_by(what: str) -> ImportError:
    """Return the error for something that cannot be imported without kvpress.

    Parameters
    ----------
    what : str
        The name of a class or function, or a part of the package in words.
    """
    if _failure is None or (isinstance(_failure, ModuleNotFoundError) and _failure.name == "kvpress"):
        reason = "which is not installed"
    else:
        reason = f"which cannot be imported ({_failure})"
    return ImportError(
        f"{what} needs kvpress, {reason}: pip install 'kvpress>=0.5.5,<0.6', which needs a transformers before 5.3"
    )
