"""The description of an operation for tests and benchmarks."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import typer

from pikvpress.kernels.compiling import numba_is_installed

Shape = Mapping[str, int]
Inputs = dict[str, Any]


class Work(NamedTuple):
    """The minimum work of an operation.

    Attributes
    ----------
    bytes : int
        Bytes that are read and written once.
    flops : int
        Floating-point operations of matrix products.
    """

    bytes: int
    flops: int


@dataclass(frozen=True)
class Operation:
    """One operation: its inputs, its definition, and alternatives.

    Parameters
    ----------
    name : str
        Name of the function in `reference` and `triton` of ``pikvpress/kernels/<folder>``.
    folder : str
        Name of the folder.
    make : callable
        Creates its arguments with torch's random generator: ``make(dtype, device, **shape)``.
    small : sequence of Shape
        Shapes for tests in Triton's interpreter.
    large : sequence of Shape
        Shapes for tests and timing on a GPU; the first one is timed on a CPU.
    work : callable
        Returns the minimum work: ``work(element_size, **shape)``.
    on_cpu : sequence of Shape
        Shapes for timing on a CPU, if other ones.
    rivals : mapping of str to callable
        Alternative implementations with the same arguments; their results are not compared.
    dtypes : sequence of torch.dtype
        Data types of the inputs.
    tolerance : mapping of torch.dtype to float
        Maximum root mean square of the error, relative to that of the result.
    """

    name: str
    folder: str
    make: Callable[..., Inputs]
    small: Sequence[Shape]
    large: Sequence[Shape]
    work: Callable[..., Work]
    on_cpu: Sequence[Shape] = ()
    rivals: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float16, torch.bfloat16)
    tolerance: Mapping[torch.dtype, float] = field(
        default_factory=lambda: {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
    )

    @property
    def reference(self) -> Callable[..., Any]:
        """The definition."""
        return self._function("reference")

    @property
    def kernel(self) -> Callable[..., Any]:
        """The Triton implementation, imported on access."""
        return self._function("triton")

    @property
    def compiled(self) -> Callable[..., Any] | None:
        """The loops compiled for a CPU, imported on access; None if there are none, or numba is not installed."""
        there = importlib.util.find_spec(f"pikvpress.kernels.{self.folder}.compiled") and numba_is_installed()
        return self._function("compiled") if there else None

    def _function(self, form: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            importlib.import_module(f"pikvpress.kernels.{self.folder}.{form}"), self.name
        )
        return function

    def error(self, inputs: Inputs, form: Callable[..., Any] | None = None) -> float:
        """Return the relative error against the reference in float64, the maximum over all results.

        Parameters
        ----------
        inputs : dict
            Arguments.
        form : callable, optional
            What is checked; by default the Triton kernel.
        """
        found = _tensors((form or self.kernel)(**inputs))
        exact = _tensors(self.reference(**{name: _wide(value) for name, value in inputs.items()}))
        if len(found) != len(exact) or any(a.shape != b.shape for a, b in zip(found, exact, strict=True)):
            raise AssertionError(f"{self.name}: {[a.shape for a in found]} instead of {[b.shape for b in exact]}")
        return max((_relative(a, b) for a, b in zip(found, exact, strict=True)), default=0.0)


def named(operations: Sequence[Operation], names: Sequence[str] | None) -> list[Operation]:
    """Return the operations with these names, or all.

    Raises
    ------
    typer.BadParameter
        For an unknown name.
    """
    known = {one.name: one for one in operations}
    for name in names or []:
        if name not in known:
            raise typer.BadParameter(f"there is no operation {name!r}; there are {', '.join(known)}")
    return [one for one in operations if not names or one.name in names]


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    found, exact = found.double(), exact.double()
    same = (found == exact) | (found.isnan() & exact.isnan())  # includes infinities
    difference = torch.where(same, 0.0, found - exact)
    if not difference.isfinite().all():
        return float("inf")
    scale = exact[exact.isfinite()].square().mean().sqrt() if exact.isfinite().any() else exact.new_tensor(1.0)
    return float(difference.square().mean().sqrt() / scale.clamp_min(1e-30)) if difference.numel() else 0.0


def _wide(value: Any) -> Any:
    """Return floating-point tensors, and objects that support it, in float64."""
    whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
    return value.double() if hasattr(value, "double") and not whole else value


def _tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)
