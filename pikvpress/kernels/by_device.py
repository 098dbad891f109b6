"""Which form of an operation runs: the Triton kernel on a GPU, compiled loops on a CPU, or the reference."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch

from pikvpress.kernels.compiling import numba_is_installed

VARIABLE = "PIKVPRESS_KERNELS"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])


def by_device(reference: Function, is_compiled: bool = False, has_kernel: bool = True) -> Function:
    """Return a function that runs the fastest form of an operation for the first tensor it is given.

    No gradients pass through it.

    Parameters
    ----------
    reference : callable
        Of a module `reference`. Its first argument, given by position, is a tensor on the device that everything is on.
    is_compiled : bool, default=False
        Whether a module `compiled` beside it has a function of the same name, which runs on a CPU.
    has_kernel : bool, default=True
        Whether a module `triton` beside it has one, which runs on a GPU.
    """
    room = reference.__module__.rpartition(".")[0]

    @wraps(reference)
    @torch.no_grad()
    def chosen(first: Any, *args: Any, **kwargs: Any) -> Any:
        if has_kernel and runs_triton(first):
            with torch.cuda.device(first.device):  # Triton launches on the current one
                return getattr(importlib.import_module(f"{room}.triton"), reference.__name__)(first, *args, **kwargs)
        loops = _compiled(room) if is_compiled and runs_compiled(first) else None
        function = reference if loops is None else getattr(loops, reference.__name__)
        return function(first, *args, **kwargs)

    return chosen  # type: ignore[return-value]


def runs_triton(tensor: torch.Tensor) -> bool:
    """Return whether kernels run on a tensor: it is on a GPU, of 16 or 32 bits, and Triton is installed.

    Raises
    ------
    ValueError
        If the environment variable PIKVPRESS_KERNELS is anything but ``reference``, which turns kernels off.
    """
    return _runs_kernels(tensor) and tensor.is_cuda and _triton_is_installed()


def runs_compiled(tensor: torch.Tensor) -> bool:
    """Return whether compiled loops run on a tensor: it is on a CPU, of 16 or 32 bits, and numba is installed.

    Raises
    ------
    ValueError
        As `runs_triton`.
    """
    return _runs_kernels(tensor) and tensor.device.type == "cpu" and numba_is_installed()


def _runs_kernels(tensor: torch.Tensor) -> bool:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "reference"):
        raise ValueError(f"{VARIABLE}={wanted!r}: set it to 'reference' to run no kernels, or leave it unset")
    return not wanted and tensor.dtype in DTYPES


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _compiled(room: str) -> Any:
    """Return the module of compiled loops, or None if numba cannot compile them, which is said once."""
    try:
        return importlib.import_module(f"{room}.compiled")
    except Exception as error:  # whatever an old or broken numba raises: the reference serves
        logger.warning("numba cannot be used, so a compressed cache is read slowly: %s", error)
        return None
