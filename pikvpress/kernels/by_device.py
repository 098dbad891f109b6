"""Which form of an operation runs: the Triton kernel on a GPU, the reference elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch

VARIABLE = "PIKVPRESS_KERNELS"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Function = TypeVar("Function", bound=Callable[..., Any])


def by_device(reference: Function) -> Function:
    """Return a function that runs the kernel of the same name where there is one for the first tensor it is given.

    No gradients pass through it.

    Parameters
    ----------
    reference : callable
        Of a module `reference`; the kernel is in `triton` beside it. Its first argument, given by position, is a tensor
        on the device that everything is on.
    """
    beside = reference.__module__.rpartition(".")[0] + ".triton"

    @wraps(reference)
    @torch.no_grad()
    def chosen(first: Any, *args: Any, **kwargs: Any) -> Any:
        if not runs_triton(first):
            return reference(first, *args, **kwargs)
        with torch.cuda.device(first.device):  # Triton launches on the current one
            return getattr(importlib.import_module(beside), reference.__name__)(first, *args, **kwargs)

    return chosen  # type: ignore[return-value]


def runs_triton(tensor: torch.Tensor) -> bool:
    """Return whether kernels run on a tensor: it is on a GPU, of 16 or 32 bits, and Triton is installed.

    Raises
    ------
    ValueError
        If the environment variable PIKVPRESS_KERNELS is anything but ``reference``, which turns kernels off.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "reference"):
        raise ValueError(f"{VARIABLE}={wanted!r}: set it to 'reference' to run no kernels, or leave it unset")
    return tensor.is_cuda and not wanted and tensor.dtype in DTYPES and _triton_is_installed()


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
