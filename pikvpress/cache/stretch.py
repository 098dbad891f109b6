"""A stretch of the sequence, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.storing import store_kept
from pikvpress.cache.tail import DenseTail
from pikvpress.support.finite import refuse_not_finite


@dataclass(frozen=True)
class Stretch:
    """What is left of entries that follow each other in the sequence. Nothing in it changes: operations return others.

    Parameters
    ----------
    keys, values : Ragged
        What is left of every head of every row.
    length : int
        Entries that it had, by which positions and masks go on.
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
        """Store the kept ones of dense entries.

        Parameters
        ----------
        dense : DenseTail
            The entries.
        kept : torch.Tensor
            bool, shape (batch, kv_heads, entries).
        codecs : pair of sequences of Codec
            Of keys and of values, by KV head.
        layer : int, optional
            For messages.
        all_channels : bool, default=False
            Whether channels of keys that are 0 throughout are stored too, so that others can be joined.

        Raises
        ------
        ValueError
            If a codec cannot take them.
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
        """Entries left of each head of each row."""
        return self.keys.counts

    @property
    def nbytes(self) -> int:
        """Bytes held, scales and filling included."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def codecs(self) -> tuple[tuple[Codec, ...], tuple[Codec, ...]]:
        """Codecs of the keys and of the values, of each head of each row."""
        return self.keys.codecs, self.values.codecs

    def select(self, places: Sequence[int]) -> Stretch:
        """Return some heads, counted through all rows, in this order."""
        return Stretch(self.keys.select(places), self.values.select(places), self.length)

    def to(self, device: torch.device | str) -> Stretch:
        """Return it on another device."""
        return Stretch(self.keys.to(device), self.values.to(device), self.length)

    def joined(self, following: Stretch) -> Stretch:
        """Return it with the entries that follow; its own fill their groups."""
        keys, values = self.keys.joined(following.keys), self.values.joined(following.values)
        return Stretch(keys, values, self.length + following.length)

    def cut(self, length: int) -> Stretch:
        """Return the first entries of one that has lost none, so many that they fill their groups."""
        return Stretch(self.keys.cut(length), self.values.cut(length), length)

    def unpacked(self, first: int, last: int, batch: int) -> DenseTail:
        """Return some entries of one that has lost none, as the model reads them."""
        heads, size = len(self.counts) // batch, self.keys.head_dim
        return DenseTail(
            *(
                torch.stack([side.part(i)[first:last] for i in range(len(side.counts))]).view(batch, heads, -1, size)
                for side in (self.keys, self.values)
            )
        )
