"""Vectors in a rotated frame, with a few bits per number."""

from pikvpress.kernels.rotation.reference import LEVELS, look_up, quantise_levels, rotation

__all__ = ["LEVELS", "look_up", "quantise_levels", "rotation"]
