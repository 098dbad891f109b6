"""kvpress's pipeline with a store."""

from __future__ import annotations

from typing import Any

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing

# isort: split
from kvpress import KVPressTextGenerationPipeline
from kvpress.presses.base_press import BasePress
from transformers import Cache
from transformers.pipelines import PIPELINE_REGISTRY

from pikvpress.cache import PiKVCache
from pikvpress.store.cache_store import CacheStore

TASK = "kv-press-text-generation"


class StoringPipeline(KVPressTextGenerationPipeline):
    """kvpress's pipeline, with one more argument: ``store``, a `CacheStore` with contexts that need not be read again.

    Without it, the pipeline is unchanged. With it, the cache is a `PiKVCache` unless another one is given, and contexts
    are read as in `CacheStore.reading`.

    Examples
    --------
    >>> pipe = pipeline("kv-press-text-generation", model=model, tokenizer=tokenizer)
    >>> pipe(context, questions=questions, press=press, store=FolderStore("contexts"))
    """

    def _sanitize_parameters(self, *args: Any, store: CacheStore | None = None, **kwargs: Any) -> Any:
        if store is not None and not isinstance(store, CacheStore):
            raise TypeError(f"store must be a CacheStore, such as FolderStore(path), got {type(store).__name__}")
        before, forward, after = super()._sanitize_parameters(*args, **kwargs)
        return before, forward if store is None else forward | {"store": store}, after

    def _forward(
        self,
        input_tensors: Any,
        max_new_tokens: int = 50,
        press: BasePress | None = None,
        cache: Cache | None = None,
        store: CacheStore | None = None,
    ) -> Any:
        if store is None:
            return super()._forward(input_tensors, max_new_tokens, press, cache)
        cache = PiKVCache() if cache is None else cache
        with store.beside(self.model, press):
            return super()._forward(input_tensors, max_new_tokens, press, cache)


def install() -> None:
    """Make this the class of kvpress's task."""
    PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] = StoringPipeline
