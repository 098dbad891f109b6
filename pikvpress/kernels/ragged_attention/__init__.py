"""Attention over a cache whose heads have different lengths."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.ragged_attention import reference
from pikvpress.kernels.ragged_attention.layout import Layout, Rows

attend = by_device(reference.attend, is_compiled=True)
# No kernel keeps the weights or bounds logits: the definition runs on every device.
attend_and_sum, attend_capped = reference.attend_and_sum, reference.attend_capped

__all__ = ["Layout", "Rows", "attend", "attend_and_sum", "attend_capped"]
