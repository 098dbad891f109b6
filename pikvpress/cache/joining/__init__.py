"""Contexts that were read and compressed alone become one cache."""

from pikvpress.cache.joining.documents import joined_ids
from pikvpress.cache.joining.joinable import SEAM, Joinable

__all__ = ["SEAM", "Joinable", "joined_ids"]
