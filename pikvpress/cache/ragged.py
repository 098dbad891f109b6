"""Rows of different number in one buffer of bytes: nothing is padded but the start of each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from pikvpress.cache.codec import GROUP, Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.kernels.ragged_attention import Layout

ALIGNED = 16  # bytes to whose multiple each head's part is filled up, so that it can be read as any type


@dataclass(frozen=True)
class Ragged:
    """Keys, or values, of every KV head of every row of a batch.

    Parameters
    ----------
    buffer : torch.Tensor
        uint8, all parts one after the other.
    counts : tuple of int
        Entries of each part; parts are ordered by row of the batch, then head.
    codecs : tuple of Codec
        Of each part.
    channels : tuple of torch.Tensor or None
        Of each part, which channels are stored, int16; None for all. The others are 0.
    head_dim : int
        Channels of an entry.
    dtype : torch.dtype
        Of the model.
    is_keys : bool
        Whether these are keys: they are grouped along tokens.
    """

    buffer: torch.Tensor
    counts: tuple[int, ...]
    codecs: tuple[Codec, ...]
    channels: tuple[torch.Tensor | None, ...]
    head_dim: int
    dtype: torch.dtype
    is_keys: bool

    @staticmethod
    def store(
        parts: Sequence[torch.Tensor], codecs: Sequence[Codec], is_keys: bool, all_channels: bool = False
    ) -> Ragged:
        """Store parts, each of shape (entries, head_dim).

        Channels of keys that are 0 throughout are left out, unless others are to be joined, which may not have them.

        Raises
        ------
        ValueError
            If a codec cannot take the head size, or a number is too large for it.
        """
        head_dim, dtype = parts[0].shape[1], parts[0].dtype
        encoded, channels = [], []
        for part, codec in zip(parts, codecs, strict=True):
            codec.check(head_dim)
            live = live_channels(part, codec) if is_keys and not all_channels else None
            channels.append(live)
            encoded.append(codec.encode(part if live is None else part[:, live.long()], is_keys))
        buffer = torch.cat([filled_up(part) for part in encoded])
        counts = tuple(len(part) for part in parts)
        return Ragged(buffer, counts, tuple(codecs), tuple(channels), head_dim, dtype, is_keys)

    def part(self, index: int) -> torch.Tensor:
        """Return a part as numbers, shape (entries, head_dim); of an exact one with all channels a view."""
        if index not in self._views:
            states = self._decoded(index)
            if self.codecs[index] != EXACT or self.channels[index] is not None:
                return states
            self._views[index] = states  # every decoded token asks for it
        return self._views[index]

    def _decoded(self, index: int) -> torch.Tensor:
        live = self.channels[index]
        width = self.head_dim if live is None else len(live)
        states = self.codecs[index].decode(self._stored(index), self.counts[index], width, self.dtype, self.is_keys)
        if live is None:
            return states
        whole = states.new_zeros(len(states), self.head_dim)
        whole[:, live.long()] = states
        return whole

    def rotated_part(self, index: int) -> torch.Tensor | None:
        """Return a part as it is stored where that is rotated, shape (entries, head_dim); None where it is not."""
        codec = self.codecs[index]
        if not isinstance(codec, RotatedCodec) or self.channels[index] is not None:
            return None
        return codec.decode_rotated(self._stored(index), self.counts[index], self.head_dim, self.dtype, self.is_keys)

    def select(self, parts: Sequence[int]) -> Ragged:
        """Return some parts, in this order, copied."""
        pieces = [self.buffer[self._starts[i] : self._starts[i] + _multiple(self._sizes[i])] for i in parts]
        return replace(
            self,
            buffer=torch.cat(pieces),
            counts=tuple(self.counts[i] for i in parts),
            codecs=tuple(self.codecs[i] for i in parts),
            channels=tuple(self.channels[i] for i in parts),
        )

    def joined(self, other: Ragged) -> Ragged:
        """Return each part with the other's entries after its own, which fill its groups."""
        parts = [
            codec.joined(self._stored(i), other._stored(i), (self.counts[i], other.counts[i]), self.head_dim)
            for i, codec in enumerate(self.codecs)
        ]
        return self._of(parts, [a + b for a, b in zip(self.counts, other.counts, strict=True)])

    def cut(self, count: int) -> Ragged:
        """Return the first entries of each part, so many that they fill their groups."""
        parts = [
            codec.cut(self._stored(i), (self.counts[i], count), self.head_dim, self.is_keys)
            for i, codec in enumerate(self.codecs)
        ]
        return self._of(parts, [count] * len(parts))

    def _stored(self, index: int) -> torch.Tensor:
        return self.buffer[self._starts[index] : self._starts[index] + self._sizes[index]]

    def _of(self, parts: Sequence[torch.Tensor], counts: Sequence[int]) -> Ragged:
        buffer = torch.cat([filled_up(part) for part in parts])
        return replace(self, buffer=buffer, counts=tuple(counts))

    def to(self, device: torch.device | str) -> Ragged:
        """Return it on another device."""
        channels = tuple(None if live is None else live.to(device) for live in self.channels)
        return replace(self, buffer=self.buffer.to(device), channels=channels)

    @property
    def nbytes(self) -> int:
        """Bytes held, filling included."""
        return self.buffer.untyped_storage().nbytes() + sum(live.nbytes for live in self.channels if live is not None)

    @property
    def is_exact(self) -> bool:
        """Whether every number is as it was."""
        return all(codec == EXACT for codec in self.codecs)

    @cached_property
    def layout(self) -> Layout | None:
        """Where the parts lie, for kernels; None if there is one that they do not read."""
        for codec, live in zip(self.codecs, self.channels, strict=True):
            if not codec.has_kernel or (isinstance(codec, RotatedCodec) and live is not None):
                return None
        bits = [codec.bits or 0 for codec in self.codecs]
        rotated = [(codec.block, codec.lead) if isinstance(codec, RotatedCodec) else (0, 0) for codec in self.codecs]
        blocks, leads = zip(*rotated, strict=True)
        parts = (self._starts, self.counts, bits, blocks, leads, self.channels)
        return Layout(self.buffer, self.dtype, *parts, self.head_dim, GROUP)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields: what is cached beside them, addresses among it, is not a copy's."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _views(self) -> dict[int, torch.Tensor]:
        return {}

    @cached_property
    def _sizes(self) -> list[int]:
        widths = [self.head_dim if live is None else len(live) for live in self.channels]
        return [
            codec.nbytes(count, width, self.dtype, self.is_keys)
            for codec, count, width in zip(self.codecs, self.counts, widths, strict=True)
        ]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(_multiple(size) for size in self._sizes)]


def stored_bytes(codec: Codec, count: int, head_dim: int, dtype: torch.dtype, is_keys: bool) -> int:
    """Return what a part takes, filling included."""
    return _multiple(codec.nbytes(count, head_dim, dtype, is_keys))


def live_channels(part: torch.Tensor, codec: Codec) -> torch.Tensor | None:
    """Return the channels to store where some are 0 in every entry, as ThinK leaves them; None if that saves nothing.

    As many are stored as the codec can lay into whole bytes.
    """
    if len(part) == 0:
        return None
    live = (part != 0).any(dim=0)
    unit = codec.unit
    width = -(-int(live.sum()) // unit) * unit
    if width >= part.shape[1]:
        return None
    return live.to(torch.int8).argsort(descending=True, stable=True)[:width].sort().values.to(torch.int16)


def _multiple(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def filled_up(stored: torch.Tensor) -> torch.Tensor:
    """Return a part's bytes with zeros after them, so that the next part starts where it may."""
    return torch.nn.functional.pad(stored, (0, _multiple(len(stored)) - len(stored)))
