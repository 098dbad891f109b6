"""The compressed part of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from pikvpress.cache.codec import GROUP
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail


@dataclass(frozen=True)
class Compressed:
    """The compressed context and the packed entries after it. Immutable: operations return new objects.

    Parameters
    ----------
    context : tuple of Stretch
        The oldest first. Empty as long as the layer is dense.
    decoded : Stretch, optional
        Entries after the context, without gaps, in complete groups.
    """

    context: tuple[Stretch, ...] = ()
    decoded: Stretch | None = None

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All stretches, the oldest first."""
        return self.context if self.decoded is None else (*self.context, self.decoded)

    @property
    def context_length(self) -> int:
        """Number of entries of the context, including removed ones."""
        return sum(stretch.length for stretch in self.context)

    @property
    def decoded_length(self) -> int:
        """Number of packed entries after the context."""
        return 0 if self.decoded is None else self.decoded.length

    @property
    def nbytes(self) -> int:
        """Bytes held, including scales and padding."""
        return sum(stretch.nbytes for stretch in self.stretches)

    def counts(self, heads: int) -> list[int]:
        """Return the number of entries of each head of all rows."""
        return [
            sum(counts) for counts in zip([0] * heads, *(stretch.counts for stretch in self.stretches), strict=True)
        ]

    def select(self, places: Sequence[int]) -> Compressed:
        """Return the selected heads, numbered over all rows, in the given order."""
        return self._of([stretch.select(places) for stretch in self.stretches])

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Compressed:
        """Return a copy with all tensors changed by a function."""
        return self._of([stretch.each(change) for stretch in self.stretches])

    def followed_by(self, stretch: Stretch) -> Compressed:
        """Return a copy with entries appended."""
        return replace(self, decoded=stretch if self.decoded is None else self.decoded.joined(stretch))

    def cropped(self, length: int, batch: int) -> tuple[Compressed, DenseTail]:
        """Return a copy with fewer entries after the context, and the unpacked entries of an incomplete group."""
        assert self.decoded is not None
        whole = length // GROUP * GROUP
        rest = self.decoded.unpacked(whole, length, batch)
        return replace(self, decoded=self.decoded.cut(whole) if whole else None), rest

    def _of(self, stretches: Sequence[Stretch]) -> Compressed:
        number = len(self.context)
        return Compressed(tuple(stretches[:number]), stretches[number] if self.decoded is not None else None)
