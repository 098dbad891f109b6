"""Vectors in a rotated frame, a few bits a number."""

from pikvpress.kernels.rotation.reference import LEVELS, look_up, quantise_levels, rotation

__all__ = ["LEVELS", "look_up", "quantise_levels", "rotation"]
