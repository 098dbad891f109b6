"""What kernels become on a GPU that is not here: registers, memory that they spill, shared memory.

python -m benchmarks.kernels.compiled [--operation NAME] [--capability 80 --capability 90] [--all-shapes]

The interpreter takes what a compiler refuses. Here every kernel is compiled to machine code, for inputs as they are
timed on a GPU and for the widest heads, and nothing is run; its results are not looked at.
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
KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # of shared memory that a program may ask for
SHARED_BYTES = {capability: 1024 * size for capability, size in KIB.items()}


class Compiled(NamedTuple):
    """A kernel as machine code.

    Attributes
    ----------
    name : str
        Of the kernel.
    registers : int
        Of a thread.
    spilled_bytes : int
        Of a thread's registers that lie in memory.
    shared_bytes : int
        Of a program.
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
    """Compile the kernels of an operation, each once, for inputs of a shape and Triton's active GPU."""
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
    operation: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    capability: Annotated[list[int] | None, typer.Option(help="Of the GPU, 90 by default; repeatable.")] = None,
    all_shapes: Annotated[bool, typer.Option(help="Those of the tests too, in every type.")] = False,
) -> None:
    """Compile kernels and print what they use; fail if one asks for more shared memory than there is."""
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
