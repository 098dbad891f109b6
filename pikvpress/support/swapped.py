"""Temporary replacement of attributes of other libraries' objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def swapped(owner: Any, **attributes: Any) -> Iterator[None]:
    """Replace attributes of an object, a class or a module inside the ``with`` block; they are restored afterwards.

    This is for code of other libraries that has no suitable argument. In our own code, pass an argument instead.

    Parameters
    ----------
    owner : object
        Object whose attributes are set. Attributes that it only inherits are deleted at the end.
    **attributes
        New values by name.

    Examples
    --------
    >>> import math
    >>> with swapped(math, pi=3):
    ...     print(math.pi)
    3
    """
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in attributes:
            if name in before:
                setattr(owner, name, before[name])
            elif name in vars(owner):
                delattr(owner, name)
