"""Compilation of loops by numba, where it is installed: when they are first used, and then kept on disk."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# Sums may be taken in any order. Infinities and what is no number are kept: masks are infinities.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}


@cache
def numba_is_installed() -> bool:
    """Return whether numba is there; if not, say once what is missed."""
    found = importlib.util.find_spec("numba") is not None
    if not found:
        logger.warning("numba is not installed, so a compressed cache is read slowly: pip install 'pikvpress[cpu]'")
    return found


def compiled(signature: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that turns a function into machine code, which runs without Python's lock.

    Parameters
    ----------
    signature : str, optional
        Types of the result and the arguments. With them the function is compiled at once, and kept on disk for later
        processes where a folder can be written: beside the module, or in the user's cache. It is compiled again if its
        own file changes, but not if only a file that it imports does. Without them it is compiled as part of others.
    **options
        Of `numba.njit`.
    """
    from numba import njit

    usual: dict[str, Any] = {"nogil": True, "fastmath": FAST, "error_model": "numpy"} | options

    def decorate(function: Callable[..., Any]) -> Any:
        if signature is None:
            return njit(**usual)(function)
        try:
            return _made(njit(cache=True, **usual)(function), signature)
        except (RuntimeError, OSError) as error:
            logger.info("%s is compiled in every process, since it cannot be kept: %s", function.__qualname__, error)
            return _made(njit(**usual)(function), signature)

    return decorate


def _made(function: Any, signature: str) -> Any:
    """Return a function compiled for these types, and no others; say so if it takes a while."""
    kept = function.stats.cache_path
    if kept is None or not any(Path(kept).glob(f"*.{function.__name__}-*.nbi")):
        _say_that_it_takes_a_while()
    function.compile(signature)
    function.disable_compile()
    return function


@cache
def _say_that_it_takes_a_while() -> None:
    logger.warning("compiling loops for this CPU: this takes some seconds, once")
