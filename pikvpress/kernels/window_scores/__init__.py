"""The attention that keys receive from a window of queries."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.window_scores import reference

received_attention = by_device(reference.received_attention)

__all__ = ["received_attention"]
