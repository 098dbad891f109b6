"""Attention that keys received from a window of queries."""

from pikvpress.kernels.window_scores.reference import observed_attention

__all__ = ["observed_attention"]
