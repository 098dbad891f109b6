"""What a store of contexts does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVCache
from pikvpress.cache.joining import SEAM
from pikvpress.store.keys import ContextKey, ContextKeys
from pikvpress.store.reading import Reading

if TYPE_CHECKING:
    from kvpress import BasePress


class CacheStore(ABC):
    """Files of caches by key; see `FolderStore`. A subclass says where they lie."""

    @abstractmethod
    def put(self, key: ContextKey, save: Callable[[Path], None], nbytes: int) -> None:
        """Store a file under a key; one that is stored under it already is replaced.

        Parameters
        ----------
        key : ContextKey
            The key.
        save : callable
            Writes the file to a path, whole or not at all, and raises an ``OSError`` if it cannot.
        nbytes : int
            Approximate size of the file.

        Raises
        ------
        ValueError
            If it is larger than the store may be.
        OSError
            If it cannot be written. What is stored already is then unchanged.
        """

    @abstractmethod
    def find(self, keys: ContextKeys, least: int) -> Iterator[tuple[ContextKey, Path]]:
        """Yield the stored prefixes of a text of at least so many tokens, the longest first, with their files.

        A file may be gone when it is opened, since other processes may remove it.
        """

    @abstractmethod
    def remove(self, key: ContextKey) -> bool:
        """Remove what is stored under a key, and return whether there was anything."""

    @contextmanager
    def reading(
        self, model: PreTrainedModel, press: BasePress | None = None, *, prefix_share: float = 0.5
    ) -> Iterator[Reading]:
        """Read contexts with a press, except for those that are stored; the others are stored.

        Inside the ``with`` block, the press is on the model as in ``with press(model)``. Whenever the model begins to
        read a prompt into an empty `PiKVCache`:

        - If exactly these tokens are stored, read by the same model with the same settings of press and cache, the
          stored cache takes the place of the empty one, and the model reads nothing. It returns the output of the last
          token alone, as with ``logits_to_keep=1``.
        - Otherwise, if the prompt begins with a stored context that has at least `prefix_share` of its tokens, the
          model goes on from the stored cache, and reads only the rest. A press has decided over the stored context
          alone: it neither compresses the rest nor decides anew, and the rest sees the context as the cache holds it.
          This equals reading the same two stretches one after the other, not reading the prompt at once. The result
          is not stored.
        - Otherwise the model reads the prompt, and the cache is stored as it is after that.

        Parameters
        ----------
        model : PreTrainedModel
            The model.
        press : BasePress, optional
            The press; None to store what the cache holds without one.
        prefix_share : float, default=0.5
            Smallest share of a prompt that a stored prefix must have to be used, in [0, 1]. 1: only stored contexts of
            exactly the prompt's tokens are used.

        Yields
        ------
        Reading
            What the store had of the latest prompt.

        Raises
        ------
        ValueError
            If the model is not supported, or the press cannot be stored; from the model's forward, for other caches,
            padded batches, positions that do not begin at 0, and embeddings in place of token ids.

        Examples
        --------
        >>> store = FolderStore("contexts", max_bytes=10**10)
        >>> with store.reading(model, press):
        ...     model.generate(**inputs, past_key_values=PiKVCache(), max_new_tokens=100)
        """
        with self.beside(model, press, prefix_share) as reading, nullcontext() if press is None else press(model):
            yield reading

    @contextmanager
    def beside(self, model: PreTrainedModel, press: BasePress | None, prefix_share: float = 0.5) -> Iterator[Reading]:
        """Do the same for a press that something else puts on the model, such as kvpress's pipeline."""
        reading = Reading(self, model, press, prefix_share)
        with reading.on():
            yield reading

    def join(
        self,
        model: PreTrainedModel,
        input_ids: Sequence[torch.Tensor],
        press: BasePress | None = None,
        *,
        make: Callable[[], PiKVCache] = PiKVCache,
        head: int = 0,
        seam: int = SEAM,
    ) -> PiKVCache:
        """Return one cache of several documents; those that are not stored yet are read, each alone, and stored.

        Parameters
        ----------
        model : PreTrainedModel
            The model.
        input_ids : sequence of torch.Tensor
            Token ids of each document, shape (1, tokens), by which the store finds them.
        press : BasePress, optional
            The press with which documents are, or were, compressed.
        make : callable, optional
            Returns the empty cache into which a document is read, if it has codecs.
        head, seam : int
            As in `PiKVCache.join`.

        Raises
        ------
        TypeError, ValueError
            As `reading` and `PiKVCache.join` do.

        Examples
        --------
        >>> cache = store.join(model, [first_ids, second_ids], PiKVPress(compression_ratio=0.875))
        """
        caches = []
        with self.reading(model, press, prefix_share=1), torch.no_grad():
            for ids in input_ids:
                caches.append(make())
                models.language_model(model)(input_ids=ids.to(model.device), **{models.CACHE: caches[-1]})
        return PiKVCache.join(caches, model, input_ids, head=head, seam=seam)
