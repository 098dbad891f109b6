"""Mixing the scores of several experts."""

from pikvpress.kernels.blend.reference import blend, ranks, transport

__all__ = ["blend", "ranks", "transport"]
