"""Vectors in a rotated frame, with a few bits per number."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.rotation import reference
from pikvpress.kernels.rotation.reference import LEVELS, look_up, quantise_levels, rotation

pack_levels = by_device(reference.pack_levels, is_compiled=True, has_kernel=False)

__all__ = ["LEVELS", "look_up", "pack_levels", "quantise_levels", "rotation"]
