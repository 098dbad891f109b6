"""The stored entries of a scheduled layer: full pages in the codecs of their heads, and exact entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.ragged import ALIGNED, Ragged
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail

Codecs = tuple[Sequence[Codec], Sequence[Codec]]


@dataclass(frozen=True, eq=False)
class Stored:
    """What a scheduled layer holds behind its recent window. Immutable: operations return new objects.

    Parameters
    ----------
    packed : Stretch, optional
        Full pages in the codecs of their heads, older than the exact entries; None if all codecs are exact.
    exact : Stretch, optional
        Entries as they are: all of a head whose codec is exact, otherwise those that do not fill a page yet. None as
        long as nothing has been stored.
    """

    packed: Stretch | None = None
    exact: Stretch | None = None

    @staticmethod
    def of(stretches: Sequence[Stretch]) -> Stored:
        """Return what `stretches` lists."""
        return Stored(stretches[0] if len(stretches) == 2 else None, stretches[-1] if stretches else None)

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The stretches that there are, the oldest first."""
        return tuple(stretch for stretch in (self.packed, self.exact) if stretch is not None)

    @property
    def packed_counts(self) -> tuple[int, ...] | None:
        """Number of packed entries of each head of each row, or None if nothing is packed."""
        return None if self.packed is None or not any(self.packed.counts) else self.packed.counts

    def after(self, leaving: DenseTail, kept: torch.Tensor, stored: int, codecs: Codecs) -> Stored:
        """Return the entries that are kept of these and of those that leave the window.

        Parameters
        ----------
        leaving : DenseTail
            Entries that leave the window; may be none.
        kept : torch.Tensor
            Which entries are kept: of each head's packed entries whole pages, then of its exact ones, then of those
            that leave; bool, shape (batch, kv_heads, stored + leaving).
        stored : int
            Number of places for stored entries in `kept`.
        codecs : pair of sequences of Codec
            Codecs of keys and of values, by KV head.

        Raises
        ------
        ValueError
            If a codec cannot store an entry.
        """
        masks = kept.flatten(0, 1)
        packed = self._pages_kept(masks)
        sides = enumerate((leaving.keys, leaving.values))
        pieces = [self._exact_pieces(side, part, masks, stored) for side, part in sides]
        if all(codec == EXACT for side in codecs for codec in side):
            return Stored(None, self._stretch(pieces, leaving.length))
        rows = [[torch.cat(of_head) for of_head in side] for side in pieces]
        heads = leaving.keys.shape[1]
        packs = [any(side[index % heads] != EXACT for side in codecs) for index in range(len(masks))]
        full = [len(part) // PAGE * PAGE if pack else 0 for part, pack in zip(rows[0], packs, strict=True)]
        keys, values = (self._packed(rows[side], full, codecs[side], side == 0) for side in (0, 1))
        fresh = Stretch(keys, values, 0)
        packed = fresh if packed is None else packed.joined(fresh)
        rest = [[[part[count:]] for part, count in zip(side, full, strict=True)] for side in rows]
        return Stored(packed, self._stretch(rest, leaving.length))

    def shortened(self, kept: torch.Tensor, length: int) -> Stored:
        """Return some of the entries of stretches that are all exact, of a text of another length."""
        masks = kept.flatten(0, 1)
        assert self.exact is not None
        pieces = [self._exact_pieces(side, None, masks, masks.shape[1]) for side in (0, 1)]
        return Stored(None, self._stretch(pieces, length - self.exact.length))

    def _pages_kept(self, masks: torch.Tensor) -> Stretch | None:
        if self.packed is None:
            return None
        kept = [
            mask[:count].view(-1, PAGE).all(dim=1).nonzero()[:, 0]
            for mask, count in zip(masks, self.packed.counts, strict=True)
        ]
        if all(PAGE * len(pages) == count for pages, count in zip(kept, self.packed.counts, strict=True)):
            return self.packed
        return Stretch(self.packed.keys.groups(kept), self.packed.values.groups(kept), self.packed.length)

    def _exact_pieces(
        self, side: int, leaving: torch.Tensor | None, masks: torch.Tensor, stored: int
    ) -> list[list[torch.Tensor]]:
        """Return the kept exact rows of each head, of keys (side 0) or values (1): stored ones, then leaving ones."""
        held = None if self.exact is None else (self.exact.keys, self.exact.values)[side]
        first = (0,) * len(masks) if self.packed is None else self.packed.counts
        fresh = None if leaving is None else leaving.flatten(0, 1)
        pieces = []
        for index, mask in enumerate(masks):
            parts = []
            if held is not None:
                part = held.part(index)
                parts.append(part[mask[first[index] : first[index] + len(part)]])
            if fresh is not None:
                parts.append(fresh[index][mask[stored:]])
            pieces.append(parts)
        return pieces

    def _packed(
        self, rows: Sequence[torch.Tensor], counts: Sequence[int], codecs: Sequence[Codec], are_keys: bool
    ) -> Ragged:
        following = [codecs[index % len(codecs)].following for index in range(len(rows))]
        first = [part[:count] for part, count in zip(rows, counts, strict=True)]
        return Ragged.store(first, following, are_keys, all_channels=True)

    def _stretch(self, pieces: Sequence[Sequence[Sequence[torch.Tensor]]], more: int) -> Stretch:
        """Return a stretch of the exact rows of each head, of keys and values, for so many more entries of the text."""
        length = more + (0 if self.exact is None else self.exact.length)
        return Stretch(_exact(pieces[0], True), _exact(pieces[1], False), length)


def _exact(pieces: Sequence[Sequence[torch.Tensor]], are_keys: bool) -> Ragged:
    """Return exact rows, joined for each head; without a copy on the way if heads need no padding."""
    like = pieces[0][0]
    if like.shape[1] * like.itemsize % ALIGNED:
        parts = [torch.cat(list(of_head)) for of_head in pieces]
        return Ragged.store(parts, [EXACT] * len(parts), are_keys, all_channels=True)
    buffer = torch.cat([piece for of_head in pieces for piece in of_head]).view(torch.uint8).flatten()
    counts = tuple(sum(len(piece) for piece in of_head) for of_head in pieces)
    nothing = (None,) * len(counts)
    return Ragged(buffer, counts, (EXACT,) * len(counts), nothing, like.shape[1], like.dtype, are_keys)
