"""All that a layer holds compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pikvpress.cache.codec import GROUP
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail


@dataclass(frozen=True)
class Compressed:
    """The context, and what was packed of the entries after it. Nothing in it changes: operations return others.

    Parameters
    ----------
    context : tuple of Stretch
        The oldest first. Empty while the whole layer is dense.
    decoded : Stretch, optional
        Entries after the context, of which none is missing, in whole groups.
    """

    context: tuple[Stretch, ...] = ()
    decoded: Stretch | None = None

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All of them, the oldest first."""
        return self.context if self.decoded is None else (*self.context, self.decoded)

    @property
    def context_length(self) -> int:
        """Entries of the context, removed ones included."""
        return sum(stretch.length for stretch in self.context)

    @property
    def decoded_length(self) -> int:
        """Packed entries after the context."""
        return 0 if self.decoded is None else self.decoded.length

    @property
    def nbytes(self) -> int:
        """Bytes held, scales and filling included."""
        return sum(stretch.nbytes for stretch in self.stretches)

    def counts(self, heads: int) -> list[int]:
        """Return how many entries each of the heads of all rows has."""
        return [
            sum(counts) for counts in zip([0] * heads, *(stretch.counts for stretch in self.stretches), strict=True)
        ]

    def select(self, places: Sequence[int]) -> Compressed:
        """Return some heads, counted through all rows, in this order."""
        return self._of([stretch.select(places) for stretch in self.stretches])

    def to(self, device: torch.device | str) -> Compressed:
        """Return it on another device."""
        return self._of([stretch.to(device) for stretch in self.stretches])

    def followed_by(self, stretch: Stretch) -> Compressed:
        """Return it with entries after those that it has."""
        return replace(self, decoded=stretch if self.decoded is None else self.decoded.joined(stretch))

    def cropped(self, length: int, batch: int) -> tuple[Compressed, DenseTail]:
        """Return it with fewer entries after the context, and those of a group that they no longer fill, unpacked."""
        assert self.decoded is not None
        whole = length // GROUP * GROUP
        rest = self.decoded.unpacked(whole, length, batch)
        return replace(self, decoded=self.decoded.cut(whole) if whole else None), rest

    def _of(self, stretches: Sequence[Stretch]) -> Compressed:
        number = len(self.context)
        return Compressed(tuple(stretches[:number]), stretches[number] if self.decoded is not None else None)
