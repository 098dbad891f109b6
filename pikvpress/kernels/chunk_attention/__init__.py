"""The attention that keys receive from the queries in their own chunk."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.chunk_attention import reference

chunk_attention = by_device(reference.chunk_attention)

__all__ = ["chunk_attention"]
