"""Mixing the scores of several experts."""

from pikvpress.kernels.blend import reference
from pikvpress.kernels.blend.reference import transport
from pikvpress.kernels.by_device import by_device

ranks = by_device(reference.ranks)
blend = by_device(reference.blend)
blended_ranks = by_device(reference.blended_ranks)

__all__ = ["blend", "blended_ranks", "ranks", "transport"]
