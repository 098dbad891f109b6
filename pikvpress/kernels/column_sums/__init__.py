"""The attention that keys receive from all queries."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.column_sums import reference

causal_log_sums = by_device(reference.causal_log_sums)
column_sums = by_device(reference.column_sums)

__all__ = ["causal_log_sums", "column_sums"]
