"""Operations beside kvpress's and PyTorch's own, timed as `python -m benchmarks.kernels` does, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from benchmarks.failures import reason
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels.floor import Speed, measure_speed
from benchmarks.kernels.operation import Operation, Shape

TABLE = "kernels"
COLUMNS = (
    *("operation", "shape", "dtype", "bytes", "flops", "way", "median_ms", "low_ms", "high_ms", "host_ms", "peak_mib"),
    *("share_of_floor", "share_of_copy", "error", "failed"),
)
FIRST = ("attend", "received_attention", "causal_log_sums", "column_sums")  # have sections of their own
CALLS = 20


def operations(names: Sequence[str] | None, setting: Setting) -> None:
    """Time operations, or those without a section of their own, and write a row for each way."""
    from benchmarks.kernels.__main__ import timed
    from benchmarks.kernels.operations import OPERATIONS

    speed = Speed(1.0, 1.0) if setting.rehearse else measure_speed(setting.dtype, setting.device)
    calls = 1 if setting.rehearse else CALLS
    for operation in OPERATIONS:
        if operation.name in names if names else operation.name not in FIRST:
            dtype = setting.dtype if setting.dtype in operation.dtypes else operation.dtypes[0]
            for shape in _shapes(operation, setting.rehearse):
                try:
                    for row in timed(operation, shape, dtype, setting.device, calls, speed, "kernel"):
                        setting.add(TABLE, COLUMNS, row)
                except Exception as error:
                    setting.add(TABLE, COLUMNS, failure(operation.name, shape, error))


ragged_attention = partial(operations, ("attend",))
window_scores = partial(operations, ("received_attention",))
column_sums = partial(operations, ("causal_log_sums", "column_sums"))
the_rest = partial(operations, None)


def _shapes(operation: Operation, rehearse: bool) -> Sequence[Shape]:
    """Return the large shapes, the longest first; in a rehearsal a small one for each way of storing."""
    if not rehearse:
        return sorted(operation.large, key=lambda shape: -max(shape.get("tokens", 0), shape.get("entries", 0)))
    of_codecs = {codec_of(shape): shape for shape in sorted(filter(numbers, operation.small), key=numbers)[::-1]}
    return [of_codecs[name] for name in (None, "exact", "int4", "rot4") if name in of_codecs]


def failure(operation: str, shape: Shape, error: Exception) -> dict[str, str]:
    """Return the row of a kernel that could not be timed."""
    return {"operation": operation, "shape": written(shape), "way": "kernel", "failed": reason(error)}


def written(shape: Shape) -> str:
    """Return a shape as text."""
    return " ".join(f"{name}={size}" for name, size in shape.items())


def smallest(operation: Operation) -> Shape:
    """Return the small shape with the least work, but some."""
    return min(filter(numbers, operation.small), key=numbers)


def numbers(shape: Shape) -> int:
    """Return about how much there is to do for a shape; 0 if nothing, or if kvpress refuses it."""
    if "window" in shape and shape["tokens"] <= shape["window"]:
        return 0
    sizes = ("batch", "heads", "group", "tokens", "entries", "chunk", "experts", "head_dim")
    return prod(shape.get(name, 1) for name in sizes)


def codec_of(shape: Shape) -> str | None:
    """Return how the keys of a shape are stored, if it says so."""
    from benchmarks.kernels.operations.ragged_attention import codecs

    return codecs(1, shape["key_bits"])[0].name if "key_bits" in shape else None
