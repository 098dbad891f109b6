"""Contexts that outlive their process: a store of compressed caches, found by the tokens that they hold."""

from pikvpress.store.cache_store import CacheStore
from pikvpress.store.folder import FolderStore, StoredContext
from pikvpress.store.keys import ContextKey, ContextKeys
from pikvpress.store.reading import Reading

__all__ = ["CacheStore", "ContextKey", "ContextKeys", "FolderStore", "Reading", "StoredContext"]
