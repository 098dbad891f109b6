"""Memory that reveals what a kernel leaves unwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pikvpress.support.swapped import swapped


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what `torch.empty` returns with numbers that would show up in any result."""

    def filled(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            made = make(*args, **kwargs)
            return made.fill_(torch.nan if made.is_floating_point() else 113)

        return empty

    with swapped(torch, empty=filled(torch.empty), empty_like=filled(torch.empty_like)):
        yield
