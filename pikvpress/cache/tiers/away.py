"""The entries of a layer while they lie on a slower tier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.tail import DenseTail


@dataclass(frozen=True, eq=False)
class Away:
    """Entries of which the older ones lie on a slower tier. Immutable: copies of a layer share it.

    The latest entries stay on the device, since a tier is written a whole layer at a time. What is measured here is
    measured as of `Entries`.

    Parameters
    ----------
    tier : str
        The slower tier: "host" or "file".
    stored : Entries
        What lies there.
    fresh : DenseTail
        The entries after these, on the device.
    read_ahead, release : callable, optional
        Read the tier's bytes into memory, and let go of that memory again.
    """

    tier: str
    stored: Entries
    fresh: DenseTail
    read_ahead: Callable[[], None] | None = None
    release: Callable[[], None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Away:
        """Return self: nothing of it changes."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process needs, in whose memory everything lies."""
        return Away, ("host", self.stored, self.fresh)

    @property
    def compressed(self) -> Compressed:
        """The compressed entries."""
        return self.stored.compressed

    @property
    def are_compressed(self) -> bool:
        """Whether the context is compressed."""
        return self.stored.are_compressed

    @property
    def heads(self) -> int:
        """Number of KV heads."""
        return self.stored.heads

    @property
    def length(self) -> int:
        """Number of entries, including removed ones."""
        return self.stored.length + self.fresh.length

    @property
    def recent(self) -> int:
        """Number of dense entries."""
        return self.stored.tail.length + self.fresh.length

    @property
    def nbytes(self) -> int:
        """Bytes held on all tiers."""
        return self.stored.nbytes + self.fresh.nbytes

    def counts(self) -> list[int]:
        """Return the number of entries of each head of each row."""
        return [count + self.fresh.length for count in self.stored.counts()]

    def followed(self, known: int, fresh: DenseTail) -> Away:
        """Return the first `known` dense entries that are stored, with others after them."""
        stored = replace(self.stored, tail=self.stored.tail.between(0, known))
        return replace(self, stored=stored, fresh=fresh)

    def on(self, device: torch.device) -> Entries:
        """Return all entries on a device.

        What is compressed and lies in memory that the device reads is not copied: parts of a mapped file are read when
        attention needs them.
        """
        tail, compressed = self.stored.tail, self.stored.compressed
        if tail.keys.device != device:
            stored = self.stored.each(lambda one: one.to(device, non_blocking=True))
            tail, compressed = stored.tail, stored.compressed
        tail = replace(tail, known=tail.length)
        if self.fresh.length > 0:
            tail = tail.appended(self.fresh.keys.to(device), self.fresh.values.to(device))
        return Entries(tail, compressed)
