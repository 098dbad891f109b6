"""The attention that keys would receive from normally distributed queries."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.expected_attention import reference

query_moments = by_device(reference.query_moments)
expected_attention = by_device(reference.expected_attention)

__all__ = ["expected_attention", "query_moments"]
