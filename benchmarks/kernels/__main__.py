"""Speed of the operations: kernels on a GPU, otherwise references and compiled loops, beside kvpress's and PyTorch's.

python -m benchmarks.kernels [--operation NAME] [--calls 30] [--output FILE.csv]

Kernels and compiled loops are first checked against their reference in float64, on the same shape. If they are wrong,
they are not timed, and the command fails at the end. On a CPU every way is called once a round, so that whatever else
runs there slows all of them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.failures import reason
from benchmarks.kernels.floor import Speed, measure_speed
from benchmarks.kernels.machine import ROOT, describe
from benchmarks.kernels.operation import Operation, Shape, named
from benchmarks.kernels.operations import OPERATIONS
from benchmarks.kernels.timing import Timing, copies_needed, time_calls, time_in_turn

Row = dict[str, Any]
RESULTS = ROOT / "benchmarks" / "results"


def main(
    operation: Annotated[list[str] | None, typer.Option(help="Only this operation; repeatable.")] = None,
    calls: Annotated[int, typer.Option(help="Number of timed calls; the median is reported.")] = 30,
    output: Annotated[Path | None, typer.Option(help="Default: benchmarks/results/kernels-<device>.csv")] = None,
) -> None:
    """Time operations and write a table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    chosen = named(OPERATIONS, operation)
    speed = measure_speed(dtype, device)
    rows: list[Row] = []
    for one in chosen:
        # The largest shapes are for GPUs: references need seconds for them.
        for shape in one.large if device == "cuda" else one.on_cpu or one.large[:1]:
            rows += timed(one, shape, dtype, device, calls, speed, "kernel" if device == "cuda" else "reference")
    show(rows, device)
    path = output or RESULTS / f"kernels-{'gpu' if device == 'cuda' else 'cpu'}.csv"
    write(path, [row | describe(device) for row in rows])
    if any(row["way"] == "wrong" for row in rows):
        sys.exit(1)


def timed(
    operation: Operation, shape: Shape, dtype: torch.dtype, device: str, calls: int, speed: Speed, ours: str
) -> Iterator[Row]:
    """Yield a row for each implementation of an operation, ours ("kernel" or "reference") first."""
    torch.manual_seed(0)
    first = operation.make(dtype, device, **shape)
    work = operation.work(dtype.itemsize, **shape)
    base = {
        "operation": operation.name,
        "shape": " ".join(f"{name}={size}" for name, size in shape.items()),
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": work.bytes,
        "flops": work.flops,
    }
    ways: dict[str, Callable[..., Any]] = {"reference": operation.reference}
    form = operation.kernel if ours == "kernel" else operation.compiled
    if form is not None:
        error = operation.error(first, form)
        if not error <= operation.tolerance[dtype]:
            yield base | {"way": "wrong", "error": error}
            return
        ways = {"kernel" if ours == "kernel" else "compiled": form} | ways
    ways |= dict(operation.rivals)
    inputs = [first, *(operation.make(dtype, device, **shape) for _ in range(copies_needed(first, device) - 1))]
    timings: dict[str, Timing | str]
    if device == "cuda":
        timings = {name: _tried(way, inputs, calls, device) for name, way in ways.items()}
    else:
        timings = dict(time_in_turn(ways, first, calls))
    for name, found in timings.items():
        if isinstance(found, str):
            yield base | {"way": name, "failed": found}
            continue
        yield base | {
            "way": name,
            "median_ms": found.median,
            "low_ms": found.low,
            "high_ms": found.high,
            "host_ms": found.host,
            "peak_mib": None if found.peak_bytes is None else found.peak_bytes / 2**20,
            "share_of_floor": speed.floor(work) / found.median,
            "share_of_copy": work.bytes / speed.bytes_per_ms / found.median,
        }


def _tried(way: Callable[..., Any], inputs: list[dict[str, Any]], calls: int, device: str) -> Timing | str:
    """Return the timing, or the reason for its absence: others may run out of memory, or not be installed."""
    try:
        return time_calls(way, inputs, calls, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    except Exception as error:
        return reason(error)


def show(rows: list[Row], device: str) -> None:
    """Print a table."""
    table = Table(box=SIMPLE, title=f"operations on {describe(device)['device']}")
    for heading in ("operation", "shape", "way", "ms", "20 to 80 %", "peak MiB", "of the floor", "of copying"):
        table.add_column(
            heading, justify="right" if heading in ("ms", "peak MiB", "of the floor", "of copying") else "left"
        )
    for row in rows:
        if "median_ms" not in row:
            table.add_row(row["operation"], row["shape"], row["way"], row.get("failed", f"error {row.get('error')}"))
            continue
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
        spread = f"{row['low_ms']:.3g} to {row['high_ms']:.3g}"
        shares = (f"{row[share]:.0%}" for share in ("share_of_floor", "share_of_copy"))
        table.add_row(row["operation"], row["shape"], row["way"], f"{row['median_ms']:.3g}", spread, peak, *shares)
    Console(width=160).print(table)


def write(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    typer.run(main)
