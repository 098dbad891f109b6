"""Libraries that only some metrics need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str) -> Any:
    """Return a module of the optional dependencies.

    Raises
    ------
    ImportError
        If it is not installed; the message explains how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this benchmark's metric needs the library {module.partition('.')[0]!r} ({error}): "
            f"pip install 'pikvpress[evaluation]'"
        ) from error
