"""Attributes of other libraries' objects, exchanged for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def swapped(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give an object, a class or a module other attributes inside the ``with``; afterwards it is as it was.

    For code of other libraries that has no argument for what is to differ. Where the code is ours, pass it in instead.

    Parameters
    ----------
    owner : object
        Whose attributes are set. Those that it only inherits are taken away again at the end.
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
