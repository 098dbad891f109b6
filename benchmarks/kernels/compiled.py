"""Compilation of kernels for GPUs without a GPU: registers, spills, shared memory.

python -m benchmarks.kernels.compiled [--operation NAME] [--capability 80 --capability 90] [--all-shapes]

The interpreter accepts code that the compiler rejects. Here every kernel is compiled to machine code, for the inputs
that are timed on a GPU and for the widest heads. Nothing is executed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import triton
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.kernels.operation import Operation, Shape, named
from benchmarks.kernels.operations import OPERATIONS
from pikvpress.support.swapped import swapped

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # maximum shared memory per program
SHARED_BYTES = {capability: 1024 * size for capability, size in KIB.items()}


class Compiled(NamedTuple):
    """A kernel as machine code.

    Attributes
    ----------
    name : str
        Name of the kernel.
    registers : int
        Number of registers per thread.
    spilled_bytes : int
        Bytes of spilled registers per thread.
    shared_bytes : int
        Bytes of shared memory per program.
    """

    name: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


class _Absent:
    """A GPU to compile for."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(operation: Operation, dtype: torch.dtype, shape: Shape) -> list[Compiled]:
    """Compile each kernel of an operation once, for inputs of a shape and Triton's active GPU."""
    torch.manual_seed(0)
    inputs = operation.make(dtype, "cpu", **shape)
    made: list[Any] = []
    launch = JITFunction.run

    def compile_only(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        made.append(launch(kernel, *args, grid=grid, warmup=True, **kwargs))

    with swapped(JITFunction, run=compile_only):
        operation.kernel(**inputs)
    return list(dict.fromkeys(map(_used, made)))


def _used(kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", printed)}
    return Compiled(kernel.metadata.name, numbers["REG"], numbers["STACK"], kernel.metadata.shared)


def main(
    operation: Annotated[list[str] | None, typer.Option(help="Only this operation; repeatable.")] = None,
    capability: Annotated[list[int] | None, typer.Option(help="Compute capability, by default 90; repeatable.")] = None,
    all_shapes: Annotated[bool, typer.Option(help="Also the shapes of the tests, in every dtype.")] = False,
) -> None:
    """Compile kernels and print their resources; fail if one needs more shared memory than available."""
    wanted = capability or [90]
    if not set(wanted) <= set(SHARED_BYTES):
        raise typer.BadParameter(f"compute capabilities known are {', '.join(map(str, SHARED_BYTES))}")
    operations = named(OPERATIONS, operation)
    fits = [_shown(each, operations, all_shapes) for each in wanted]
    if not all(fits):
        sys.exit(1)


def _shown(capability: int, operations: list[Operation], all_shapes: bool) -> bool:
    """Print a table; return whether everything fits."""
    driver.set_active(_Absent(capability))
    table = Table(box=SIMPLE, title=f"kernels compiled for compute capability {capability / 10:.1f}")
    for heading in ("operation", "inputs", "kernel", "registers", "spilled B", "shared B"):
        table.add_column(heading, justify="right" if heading.split()[-1] in ("registers", "B") else "left")
    fits = True
    for one in operations:
        widest = max(one.small, key=lambda shape: shape.get("head_dim", 0))
        cases = [(one.dtypes[-1], shape) for shape in (one.large[0], widest)]
        cases += [(dtype, shape) for dtype in one.dtypes for shape in one.small] if all_shapes else []
        for dtype, shape in cases:
            inputs = " ".join([str(dtype).removeprefix("torch."), *(f"{k}={v}" for k, v in shape.items())])
            for kernel in compiled(one, dtype, shape):
                table.add_row(one.name, inputs, *map(str, kernel))
                fits &= kernel.shared_bytes <= SHARED_BYTES[capability]
    Console(width=170).print(table)
    return fits


if __name__ == "__main__":
    typer.run(main)
