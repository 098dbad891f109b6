"""A compressed stretch of the sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.storing import store_kept
from pikvpress.cache.tail import DenseTail
from pikvpress.support.finite import refuse_not_finite


@dataclass(frozen=True)
class Stretch:
    """The kept entries of a contiguous part of the sequence. Immutable: operations return new objects.

    Parameters
    ----------
    keys, values : Ragged
        The kept entries of every head of every row.
    length : int
        Original number of entries, which determines later positions and masks.
    """

    keys: Ragged
    values: Ragged
    length: int

    @staticmethod
    def store(
        dense: DenseTail,
        kept: torch.Tensor,
        codecs: tuple[Sequence[Codec], Sequence[Codec]],
        layer: int | None,
        all_channels: bool = False,
    ) -> Stretch:
        """Store the kept entries of a dense tail.

        Parameters
        ----------
        dense : DenseTail
            The dense entries.
        kept : torch.Tensor
            bool, shape (batch, kv_heads, entries).
        codecs : pair of sequences of Codec
            Codecs of keys and of values, by KV head.
        layer : int, optional
            Index of the layer, for error messages.
        all_channels : bool, default=False
            Whether channels of keys that are 0 in all entries are also stored, so that other entries can be joined.

        Raises
        ------
        ValueError
            If a codec cannot store them.
        """
        try:
            keys = store_kept(dense.keys, kept, codecs[0], True, all_channels)
            return Stretch(keys, store_kept(dense.values, kept, codecs[1], False), dense.length)
        except ValueError as error:
            if layer is None:
                raise
            refuse_not_finite(layer, {"keys": dense.keys, "values": dense.values})
            raise ValueError(f"layer {layer}: {error}") from error

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of kept entries of each head of each row."""
        return self.keys.counts

    @property
    def nbytes(self) -> int:
        """Bytes held, including scales and padding."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def codecs(self) -> tuple[tuple[Codec, ...], tuple[Codec, ...]]:
        """Codecs of the keys and of the values, of each head of each row."""
        return self.keys.codecs, self.values.codecs

    def select(self, places: Sequence[int]) -> Stretch:
        """Return the selected heads, numbered over all rows, in the given order."""
        return Stretch(self.keys.select(places), self.values.select(places), self.length)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Stretch:
        """Return a copy with all tensors changed by a function."""
        return Stretch(self.keys.each(change), self.values.each(change), self.length)

    def joined(self, following: Stretch) -> Stretch:
        """Return a copy with the entries that follow; its own groups must be full."""
        keys, values = self.keys.joined(following.keys), self.values.joined(following.values)
        return Stretch(keys, values, self.length + following.length)

    def cut(self, length: int) -> Stretch:
        """Return the first entries of a stretch without removed entries; their number must fill complete groups."""
        return Stretch(self.keys.cut(length), self.values.cut(length), length)

    def unpacked(self, first: int, last: int, batch: int) -> DenseTail:
        """Decode some entries of a stretch without removed entries."""
        heads, size = len(self.counts) // batch, self.keys.head_dim
        return DenseTail(
            *(
                torch.stack([side.part(i)[first:last] for i in range(len(side.counts))]).view(batch, heads, -1, size)
                for side in (self.keys, self.values)
            )
        )
