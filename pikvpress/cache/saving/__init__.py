"""Saving a cache to a file, and loading it."""

from pikvpress.cache.saving.about import SavedCache, digest_of_ids, saved_cache
from pikvpress.cache.saving.whole import CacheState, load, save

__all__ = ["CacheState", "SavedCache", "digest_of_ids", "load", "save", "saved_cache"]
