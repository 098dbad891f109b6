"""One file per operation."""

from benchmarks.kernels.operation import Operation
from benchmarks.kernels.operations.blend import BLEND, BLENDED_RANKS, RANKS
from benchmarks.kernels.operations.chunk_attention import CHUNK_ATTENTION
from benchmarks.kernels.operations.column_sums import CAUSAL_LOG_SUMS, COLUMN_SUMS
from benchmarks.kernels.operations.compact import COMPACT_AND_PACK, COMPACT_ROWS
from benchmarks.kernels.operations.expected_attention import EXPECTED_ATTENTION, QUERY_MOMENTS
from benchmarks.kernels.operations.key_geometry import COSINES, KEY_GEOMETRY, MEAN_DIRECTION
from benchmarks.kernels.operations.page_bounds import PAGE_BOUNDS, PAGE_SCORES
from benchmarks.kernels.operations.ragged_attention import RAGGED_ATTENTION
from benchmarks.kernels.operations.window_scores import WINDOW_SCORES

OPERATIONS: tuple[Operation, ...] = (
    WINDOW_SCORES,
    CAUSAL_LOG_SUMS,
    COLUMN_SUMS,
    CHUNK_ATTENTION,
    QUERY_MOMENTS,
    EXPECTED_ATTENTION,
    KEY_GEOMETRY,
    MEAN_DIRECTION,
    COSINES,
    RANKS,
    BLEND,
    BLENDED_RANKS,
    COMPACT_ROWS,
    COMPACT_AND_PACK,
    PAGE_BOUNDS,
    PAGE_SCORES,
    RAGGED_ATTENTION,
)
