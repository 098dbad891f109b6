"""Saving a cache to a file, and loading it."""

from pikvpress.cache.saving.about import SavedCache, digest_of_ids, saved_cache
from pikvpress.cache.saving.savable import Savable

__all__ = ["Savable", "SavedCache", "digest_of_ids", "saved_cache"]
