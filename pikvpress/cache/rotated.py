"""Codecs that turn vectors before they round them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pikvpress.cache.codec import GROUP, Codec
from pikvpress.kernels.packing import pack_bits
from pikvpress.kernels.rotation import look_up, quantise_levels, rotation

HALF = torch.float16


# How long vectors are read back, see `quantise_levels`. Attention sums many values, so that errors to all sides cancel
# and a lack of length does not. Keys are better a little too short, since noise in the logits raises exponentials.
KEY_LENGTH, VALUE_LENGTH = 2 / 3, 1.0


@dataclass(frozen=True)
class RotatedCodec(Codec):
    """Codes of a rotated vector, and one 16-bit scale a vector.

    Keys are stored without the mean of their block, which is kept beside them: they have much in common with what
    stands near. Values are not: taking their mean out was measured to hurt. The first entry is kept in 16 bits, since
    most queries attend to it strongly (attention sinks, https://arxiv.org/abs/2309.17453): an error there is an error
    everywhere. See `pikvpress.kernels.rotation` for rotation, levels and scales.

    A part holds codes, then scales, the first entry, and means, all rotated.

    Parameters
    ----------
    block : int, default=256
        Keys that share a mean, a multiple of 64.
    lead : int, default=1
        First entries kept in 16 bits: 1 or 0.
    """

    block: int = 256
    lead: int = 1

    @property
    def unit(self) -> int:
        """Of how many numbers a row must hold a multiple: scales start at an even byte."""
        assert self.bits is not None
        return 16 // math.gcd(16, self.bits)

    @property
    def following(self) -> Codec:
        """For entries that come after the context, group by group: each brings its own mean."""
        return replace(self, block=GROUP, lead=0)

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the bytes of ``rows`` rows of ``width`` numbers, scales and means included."""
        return sum(self._sizes(rows, width, is_keys))

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Return rows (n, d) as bytes, uint8, shape (`nbytes`,).

        Raises
        ------
        ValueError
            If a number is too large for 16 bits.
        """
        if len(states) == 0:
            return torch.empty(0, dtype=torch.uint8, device=states.device)
        assert self.bits is not None
        turned = states.float() @ rotation(states.shape[1], states.device).T
        lead = turned[: self.lead].to(HALF)
        turned[: self.lead] = 0
        means = turned[:0].to(HALF)
        if is_keys:
            means = self._means(turned).to(HALF)
            turned[self.lead :] -= self._spread(means, len(turned))[self.lead :]
        if not (lead.isfinite().all() and means.isfinite().all()):
            raise ValueError(
                f"states up to {states.abs().max().item():.3g} cannot be packed: the first and the mean are kept in "
                "float16, whose largest number is 65504; keep them exact"
            )
        codes, scales = quantise_levels(turned, self.bits, KEY_LENGTH if is_keys else VALUE_LENGTH)
        halves = torch.cat([scales, lead.flatten(), means.flatten()])
        return torch.cat([pack_bits(codes, self.bits).flatten(), halves.view(torch.uint8)])

    def decode(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> torch.Tensor:
        """Return the rows (n, d) that bytes stand for."""
        turned = self.decode_rotated(stored, rows, width, torch.float32, is_keys)
        return (turned @ rotation(width, stored.device)).to(dtype)

    def decode_rotated(
        self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool
    ) -> torch.Tensor:
        """Return the rows (n, d) that bytes stand for, rotated, as they were stored."""
        if rows == 0:
            return torch.empty(0, width, dtype=dtype, device=stored.device)
        assert self.bits is not None
        codes, scales, lead, means = stored.split(self._sizes(rows, width, is_keys))
        turned = look_up(codes.view(rows, -1), scales.view(HALF), self.bits)
        if is_keys:
            turned += self._spread(means.view(HALF).view(-1, width), rows)
        turned[: self.lead] = lead.view(HALF).view(-1, width)
        return turned.to(dtype)

    def joined(self, first: torch.Tensor, second: torch.Tensor, rows: tuple[int, int], width: int) -> torch.Tensor:
        """Return the bytes of two stored parts as one; the rows of the first fill its blocks. For `following`."""
        split = (self._split(part, count, width) for part, count in zip((first, second), rows, strict=True))
        return torch.cat([piece for pair in zip(*split, strict=True) for piece in pair])

    def cut(self, stored: torch.Tensor, rows: tuple[int, int], width: int, is_keys: bool) -> torch.Tensor:
        """Return the bytes of the first rows[1] of rows[0] stored rows, a multiple of the block. For `following`."""
        left = self._sizes(rows[1], width, is_keys)
        parts = stored.split(self._sizes(rows[0], width, is_keys))
        return torch.cat([part[:size] for part, size in zip(parts, left, strict=True)])

    def _sizes(self, rows: int, width: int, is_keys: bool) -> list[int]:
        """Return the bytes of codes, scales, first entry and means."""
        assert self.bits is not None
        codes, scales = rows * width * self.bits // 8, rows * HALF.itemsize
        means = -(-rows // self.block) if is_keys else 0
        return [codes, scales, *(number * width * HALF.itemsize for number in (min(self.lead, rows), means))]

    def _split(self, stored: torch.Tensor, rows: int, width: int) -> tuple[torch.Tensor, ...]:
        """Return the bytes of codes, scales and the rest."""
        codes, scales = self._sizes(rows, width, False)[:2]
        return stored.split([codes, scales, len(stored) - codes - scales])

    def _means(self, turned: torch.Tensor) -> torch.Tensor:
        """Return the mean of each block; a first entry that is kept apart is 0 and does not count."""
        blocks = turned.split(self.block)
        sums = torch.stack([block.sum(dim=0) for block in blocks])
        counts = [len(block) - (self.lead if number == 0 else 0) for number, block in enumerate(blocks)]
        return sums / sums.new_tensor(counts).clamp_min(1)[:, None]

    def _spread(self, means: torch.Tensor, rows: int) -> torch.Tensor:
        """Return means of blocks as one of each row, float32."""
        return means.float().repeat_interleave(self.block, dim=0)[:rows]
