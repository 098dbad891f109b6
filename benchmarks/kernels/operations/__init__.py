"""One file an operation."""

from benchmarks.kernels.operation import Operation
from benchmarks.kernels.operations.window_scores import WINDOW_SCORES

OPERATIONS: tuple[Operation, ...] = (WINDOW_SCORES,)
