"""Attention over a cache whose heads have different lengths."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.ragged_attention import reference
from pikvpress.kernels.ragged_attention.layout import Layout, Rows

attend = by_device(reference.attend, is_compiled=True)
attend_and_sum = by_device(reference.attend_and_sum, is_compiled=True, has_kernel=False)
attend_capped = reference.attend_capped  # no other form bounds logits

__all__ = ["Layout", "Rows", "attend", "attend_and_sum", "attend_capped"]
