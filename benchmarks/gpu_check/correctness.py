"""Every kernel against its reference in float64, and rows of huge batches against rows alone.

A kernel that reads where it must not ends the whole process on a GPU, so each operation and data type has its own.
Several run at the same time, since most of the time goes into compiling.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.failures import reason
from benchmarks.gpu_check.bare import missing
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.timings import smallest, written
from benchmarks.kernels.machine import ROOT
from benchmarks.kernels.operation import Operation, Shape, named

TABLE = "correctness"
COLUMNS = ("operation", "dtype", "sizes", "shape", "error", "tolerance", "result")
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
LONG = 32768  # references in float64 take seconds beyond
NUMBERS = 2**31  # of a huge batch


def every_kernel(setting: Setting) -> None:
    """Check every operation in every data type, small and large shapes."""
    from benchmarks.kernels.operations import OPERATIONS

    if setting.rehearse:
        for operation in OPERATIONS:
            check(operation, setting.dtype, setting)
        return
    slowest = sorted(OPERATIONS, key=lambda one: -len(one.small))
    units = [(one.name, name) for name, dtype in PRECISIONS.items() for one in slowest if dtype in one.dtypes]
    with ThreadPoolExecutor(min(12, os.cpu_count() or 1)) as pool:
        list(pool.map(partial(_in_its_own_process, setting), units))


def _in_its_own_process(setting: Setting, unit: tuple[str, str]) -> None:
    operation, dtype = unit
    command = [sys.executable, "-m", "benchmarks.gpu_check.correctness", operation, dtype, "--output"]
    status = subprocess.run([*command, str(setting.output)], cwd=ROOT).returncode
    if status:
        row = {"operation": operation, "dtype": dtype, "result": f"failed: its process ended with {status}"}
        setting.add(TABLE, COLUMNS, row)


def check(operation: Operation, dtype: torch.dtype, setting: Setting) -> None:
    """Check an operation in a data type, and write a row for each shape."""
    from benchmarks.kernels.poisoned import poisoned

    for sizes, shape in _shapes(operation, dtype, setting.rehearse):
        row = _row(operation, dtype, sizes, shape)
        try:
            torch.manual_seed(0)
            inputs = operation.make(dtype, setting.device, **shape)
            with poisoned():
                error = operation.error(inputs)
        except Exception as failure:
            setting.add(TABLE, COLUMNS, row | {"result": f"failed: {reason(failure)}"})
            if setting.device == "cuda" and not isinstance(failure, torch.OutOfMemoryError):
                torch.cuda.synchronize()  # a process that has read where it must not can do nothing more: end it
        else:
            result = "correct" if error <= operation.tolerance[dtype] else "wrong"
            setting.add(TABLE, COLUMNS, row | {"error": error, "result": result})


def _shapes(operation: Operation, dtype: torch.dtype, rehearse: bool) -> Iterator[tuple[str, Shape]]:
    """Yield a small shape, then what is used in practice, then the rest; in a rehearsal only the smallest."""
    if rehearse:
        yield "small", smallest(operation)
        return
    first, *others = operation.small
    yield "small", first
    large = [] if dtype == torch.float32 else list(operation.large)
    lengths = [max(shape.get("tokens", 0), shape.get("entries", 0)) for shape in large]
    usual = [shape for shape, length in zip(large, lengths, strict=True) if length <= LONG]
    for sizes, shapes in (("large", usual), ("small", others), ("large", [one for one in large if one not in usual])):
        yield from itertools.product([sizes], shapes)


def huge_batches(setting: Setting) -> None:
    """Check the last row of batches of more than 2^31 numbers."""
    from benchmarks.kernels.huge import difference, is_of_rows
    from benchmarks.kernels.operations import OPERATIONS

    for operation in filter(is_of_rows, OPERATIONS):
        dtype = operation.dtypes[0] if setting.rehearse else operation.dtypes[-1]
        shape = smallest(operation) if setting.rehearse else operation.large[0]
        row = _row(operation, dtype, "huge", shape)
        try:
            error = difference(operation, dtype, setting.device, shape, 200 if setting.rehearse else NUMBERS)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            setting.add(TABLE, COLUMNS, row | {"result": "failed: out of memory"})
        else:
            result = "correct" if error <= operation.tolerance[dtype] else "wrong"
            setting.add(TABLE, COLUMNS, row | {"error": error, "result": result})


def _row(operation: Operation, dtype: torch.dtype, sizes: str, shape: Shape) -> dict[str, object]:
    return {
        "operation": operation.name,
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": sizes,
        "shape": written(shape),
        "tolerance": operation.tolerance[dtype],
    }


def main(
    operation: Annotated[str, typer.Argument(help="Name of the operation.")],
    dtype: Annotated[str, typer.Argument(help=", ".join(PRECISIONS))],
    output: Annotated[Path, typer.Option(help="Folder of the tables.")],
) -> None:
    """Check one operation in one data type on the GPU."""
    missing()
    from benchmarks.kernels.operations import OPERATIONS

    (chosen,) = named(OPERATIONS, [operation])
    check(chosen, PRECISIONS[dtype], Setting(output, rehearse=False))


if __name__ == "__main__":
    typer.run(main)
