"""All entries of a layer: the compressed ones, then the dense ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.compressed import Compressed
from pikvpress.cache.pending import Pending
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail


@dataclass(frozen=True, eq=False)
class Entries:
    """The contents of a layer. Immutable: operations return new objects.

    Parameters
    ----------
    tail : DenseTail
        The latest entries; all entries until the context is compressed.
    compressed : Compressed
        The entries before them.
    """

    tail: DenseTail = field(default_factory=DenseTail)
    compressed: Compressed = field(default_factory=Compressed)

    @property
    def are_compressed(self) -> bool:
        """Whether the context is compressed, so that only our own attention reads the layer."""
        return bool(self.compressed.context)

    @property
    def new_length(self) -> int:
        """Number of entries after the compressed context."""
        return self.compressed.decoded_length + self.tail.length

    @property
    def length(self) -> int:
        """Number of entries, including removed ones."""
        return self.compressed.context_length + self.new_length

    @property
    def recent(self) -> int:
        """Number of dense entries."""
        return self.tail.length

    @property
    def heads(self) -> int:
        """Number of KV heads."""
        heads: int = self.tail.keys.shape[1]
        return heads

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.tail.nbytes + self.compressed.nbytes

    def counts(self) -> list[int]:
        """Return the number of entries of each head of each row."""
        batch, heads, dense, _ = self.tail.keys.shape
        return [dense + count for count in self.compressed.counts(batch * heads)]

    def appended(self, keys: torch.Tensor, values: torch.Tensor) -> Entries:
        """Return a copy with entries appended."""
        return replace(self, tail=self.tail.appended(keys, values))

    def with_context_only(self) -> Entries:
        """Return the same entries, those packed after the context as a part of it."""
        return replace(self, compressed=Compressed(self.compressed.stretches))

    def rows(self, rows: torch.Tensor) -> Entries:
        """Return a copy with the selected rows of the batch, in the given order."""
        heads = self.tail.keys.shape[1]
        places = [row * heads + head for row in rows.tolist() for head in range(heads)]
        return Entries(self.tail.rows(rows), self.compressed.select(places))

    def to(self, device: torch.device | str) -> Entries:
        """Return a copy on another device."""
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Entries:
        """Return a copy with all tensors changed by a function."""
        return Entries(self.tail.each(change), self.compressed.each(change))

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors, in the order in which `each` changes them."""
        found: list[torch.Tensor] = []

        def listed(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        self.each(listed)
        return found

    def cropped(self, length: int) -> Entries:
        """Return the first entries, at least the entire context; entries of an incomplete group are unpacked."""
        new, packed = length - self.compressed.context_length, self.compressed.decoded_length
        if new < packed:
            compressed, tail = self.compressed.cropped(new, self.tail.keys.shape[0])
            return Entries(tail, compressed)
        left = self.tail.between(0, new - packed)
        return replace(self, tail=left.copied() if self.are_compressed else left)

    def length_after_crop(self, max_length: int) -> int:
        """Return how many entries a crop to ``max_length`` leaves; a negative value is the number to remove.

        Raises
        ------
        ValueError
            If the new end would be inside the compressed context, or more entries would be removed than there are.
        """
        compressed = self.compressed.context_length
        wanted = self.length + max_length if max_length < 0 else max_length
        if wanted < 0:
            raise ValueError(f"the cache has {self.length} entries, so {-max_length} of them cannot be removed")
        if wanted >= self.length:
            return self.length
        if 0 < wanted < compressed:
            raise ValueError(
                f"the cache holds a compressed context of {compressed} entries and cannot be cropped to {wanted}: crop "
                f"to {compressed} or more, or to 0"
            )
        return wanted

    def after(self, pending: Pending, layer: int | None) -> Entries:
        """Return the entries after a pending change has been applied to dense entries.

        Raises
        ------
        ValueError
            If a codec cannot store them; the message names the layer if it is known.
        """
        return Entries(self.tail.between(0, 0).copied(), Compressed(pending.stored(self.tail, layer)))

    def packed(self, count: int, codecs: tuple[Sequence[Codec], Sequence[Codec]], layer: int | None) -> Entries:
        """Return a copy with the first full groups of dense entries packed by KV head; raises the errors of `after`."""
        first, rest = self.tail.between(0, count), self.tail.between(count, self.tail.length)
        every = torch.ones(first.keys.shape[:3], dtype=torch.bool, device=first.keys.device)
        following = Stretch.store(first, every, codecs, layer, all_channels=True)
        return Entries(rest.copied(), self.compressed.followed_by(following))
