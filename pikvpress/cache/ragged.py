"""Parts with different numbers of rows in one buffer of bytes; only the start of each head is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch

from pikvpress.cache.codec import GROUP, Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.kernels.ragged_attention import Layout

ALIGNED = 16  # each head's part is padded to a multiple of this many bytes, so that it can be read as any type


@dataclass(frozen=True)
class Ragged:
    """Keys, or values, of every KV head of every row of a batch.

    Parameters
    ----------
    buffer : torch.Tensor
        uint8, all parts concatenated.
    counts : tuple of int
        Number of entries of each part; parts are ordered by row of the batch, then head.
    codecs : tuple of Codec
        Codec of each part.
    channels : tuple of torch.Tensor or None
        Indices of the channels stored in each part, int16; None for all. The other channels are 0.
    head_dim : int
        Number of channels of an entry.
    dtype : torch.dtype
        Data type of the model.
    is_keys : bool
        Whether these are keys, which are grouped along tokens.
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

        Channels of keys that are 0 in all entries are omitted, unless other entries will be joined, in which they may
        not be 0.

        Raises
        ------
        ValueError
            If a codec does not support the head size, or a number is too large for it.
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
        """Decode a part, shape (entries, head_dim); a view if it is exact and has all channels."""
        if index not in self._views:
            states = self._decoded(index)
            if self.codecs[index] != EXACT or self.channels[index] is not None:
                return states
            self._views[index] = states  # needed for every decoded token
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
        """Return a part in rotated form if it is stored like that, shape (entries, head_dim); otherwise None."""
        codec = self.codecs[index]
        if not isinstance(codec, RotatedCodec) or self.channels[index] is not None:
            return None
        return codec.decode_rotated(self._stored(index), self.counts[index], self.head_dim, self.dtype, self.is_keys)

    def select(self, parts: Sequence[int]) -> Ragged:
        """Return copies of the selected parts, in the given order."""
        pieces = [self.buffer[self._starts[i] : self._starts[i] + _multiple(self._sizes[i])] for i in parts]
        return replace(
            self,
            buffer=torch.cat(pieces),
            counts=tuple(self.counts[i] for i in parts),
            codecs=tuple(self.codecs[i] for i in parts),
            channels=tuple(self.channels[i] for i in parts),
        )

    def joined(self, other: Ragged) -> Ragged:
        """Return each part with the other's entries appended; its own groups must be full."""
        parts = [
            codec.joined(self._stored(i), other._stored(i), (self.counts[i], other.counts[i]), self.head_dim)
            for i, codec in enumerate(self.codecs)
        ]
        return self._of(parts, [a + b for a, b in zip(self.counts, other.counts, strict=True)])

    def cut(self, count: int) -> Ragged:
        """Return the first entries of each part; their number must fill complete groups."""
        parts = [
            codec.cut(self._stored(i), (self.counts[i], count), self.head_dim, self.is_keys)
            for i, codec in enumerate(self.codecs)
        ]
        return self._of(parts, [count] * len(parts))

    def groups(self, kept: Sequence[torch.Tensor]) -> Ragged:
        """Return some of the groups of each part, all of which are full; `kept` holds their indices, ascending."""
        parts = [
            codec.groups(self._stored(i), kept[i], self.counts[i], self.head_dim) if self.counts[i] else self._stored(i)
            for i, codec in enumerate(self.codecs)
        ]
        return self._of(parts, [GROUP * len(these) for these in kept])

    def _stored(self, index: int) -> torch.Tensor:
        return self.buffer[self._starts[index] : self._starts[index] + self._sizes[index]]

    def _of(self, parts: Sequence[torch.Tensor], counts: Sequence[int]) -> Ragged:
        buffer = torch.cat([filled_up(part) for part in parts])
        return replace(self, buffer=buffer, counts=tuple(counts))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Ragged:
        """Return a copy with all tensors changed by a function, such as a move to another device."""
        channels = tuple(None if live is None else change(live) for live in self.channels)
        return replace(self, buffer=change(self.buffer), channels=channels)

    @property
    def nbytes(self) -> int:
        """Bytes held, including padding."""
        return self.buffer.untyped_storage().nbytes() + sum(live.nbytes for live in self.channels if live is not None)

    @property
    def is_exact(self) -> bool:
        """Whether all numbers are stored exactly."""
        return all(codec == EXACT for codec in self.codecs)

    @cached_property
    def layout(self) -> Layout | None:
        """Addresses of the parts, for kernels; None if there is a part that they cannot read."""
        for codec, live in zip(self.codecs, self.channels, strict=True):
            if not codec.has_kernel or (isinstance(codec, RotatedCodec) and live is not None):
                return None
        bits = [codec.bits or 0 for codec in self.codecs]
        rotated = [(codec.block, codec.lead) if isinstance(codec, RotatedCodec) else (0, 0) for codec in self.codecs]
        blocks, leads = zip(*rotated, strict=True)
        parts = (self._starts, self.counts, bits, blocks, leads, self.channels)
        return Layout(self.buffer, self.dtype, *parts, self.head_dim, GROUP)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without cached values such as addresses, which are not valid for a copy."""
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
    """Return the number of bytes of a part, including padding."""
    return _multiple(codec.nbytes(count, head_dim, dtype, is_keys))


def live_channels(part: torch.Tensor, codec: Codec) -> torch.Tensor | None:
    """Return the channels to store if some are 0 in every entry, as after ThinK; None if that saves nothing.

    Their number is rounded up so that the codec fills complete bytes.
    """
    if len(part) == 0:
        return None
    live = (part != 0).any(dim=0)
    unit = codec.unit
    width = -(-int(live.sum()) // unit) * unit
    if isinstance(codec, RotatedCodec):
        width = max(width, unit)  # nothing cannot be rotated
    if width >= part.shape[1]:
        return None
    return live.to(torch.int8).argsort(descending=True, stable=True)[:width].sort().values.to(torch.int16)


def _multiple(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def filled_up(stored: torch.Tensor) -> torch.Tensor:
    """Return a part's bytes padded with zeros, so that the next part is aligned."""
    return torch.nn.functional.pad(stored, (0, _multiple(len(stored)) - len(stored)))
