"""A pending change: what has been decided for a dense layer but not applied yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.storing import kept_bytes
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail


@dataclass(frozen=True, eq=False)
class Pending:
    """Entries to remove, and codecs for the others.

    Presses act after attention, and the last layer is not notified when they are done. It is therefore compressed when
    the cache is used next. Measuring it before then returns the future values, without side effects.

    Parameters
    ----------
    kept : torch.Tensor
        bool, shape (batch, kv_heads, entries).
    codecs : pair of sequences of Codec
        Codecs of keys and of values, by KV head.
    window : int
        Number of most recent entries that stay exact if a codec is not exact.
    padded : bool
        Whether some of the other entries are padding.
    """

    kept: torch.Tensor
    codecs: tuple[Sequence[Codec], Sequence[Codec]]
    window: int
    padded: bool = False

    @property
    def packs(self) -> bool:
        """Whether any codec is not exact."""
        return any(codec != EXACT for side in self.codecs for codec in side)

    def counts(self) -> list[int]:
        """Return the number of entries that each head of each row will have."""
        return self.kept.flatten(0, 1).sum(dim=-1).tolist()

    def nbytes(self, dense: DenseTail) -> int:
        """Return the exact number of bytes that the stretches of `stored` will hold."""
        return sum(
            kept_bytes(part.keys, kept, codecs[0], True) + kept_bytes(part.values, kept, codecs[1], False)
            for part, kept, codecs in self._stretches(dense)
        )

    def stored(self, dense: DenseTail, layer: int | None) -> tuple[Stretch, ...]:
        """Return the stretches, the window last.

        Parameters
        ----------
        dense : DenseTail
            All entries of the layer.
        layer : int, optional
            Index of the layer, for error messages.

        Raises
        ------
        ValueError
            If a codec cannot store the entries.
        """
        return tuple(Stretch.store(part, kept, codecs, layer) for part, kept, codecs in self._stretches(dense))

    def _stretches(
        self, dense: DenseTail
    ) -> list[tuple[DenseTail, torch.Tensor, tuple[Sequence[Codec], Sequence[Codec]]]]:
        length = dense.length
        split = max(0, length - self.window) if self.packs else length
        stretches = [(dense.between(0, split), self.kept[..., :split], self.codecs)]
        if split < length:
            exact = [EXACT] * self.kept.shape[1]
            stretches.append((dense.between(split, length), self.kept[..., split:], (exact, exact)))
        return stretches
