"""Attention over a cache whose heads have different lengths."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.ragged_attention import reference
from pikvpress.kernels.ragged_attention.layout import Layout, Rows

attend = by_device(reference.attend, is_compiled=True)
attend_and_sum = reference.attend_and_sum  # no kernel keeps the weights: the definition runs on every device

__all__ = ["Layout", "Rows", "attend", "attend_and_sum"]
