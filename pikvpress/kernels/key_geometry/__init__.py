"""Lengths of keys and values, and directions of keys."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.key_geometry import reference
from pikvpress.kernels.key_geometry.reference import KeyGeometry

key_geometry = by_device(reference.key_geometry)
mean_direction = by_device(reference.mean_direction)
cosines = by_device(reference.cosines)

__all__ = ["KeyGeometry", "cosines", "key_geometry", "mean_direction"]
