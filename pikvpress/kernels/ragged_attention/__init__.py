"""Attention over a cache whose heads have different lengths."""

from pikvpress.kernels.ragged_attention.reference import Rows, attend

__all__ = ["Rows", "attend"]
