"""Codecs that rotate vectors before quantising them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pikvpress.cache.codec import GROUP, HALF, Codec, to_half
from pikvpress.kernels.rotation import look_up, pack_levels, rotation

# The norm of decoded vectors, see `pikvpress.kernels.rotation`. Attention sums many values: random errors cancel, but a
# norm that is too small does not. For keys, a slightly smaller norm is better, since noise in the logits raises
# exponentials.
KEY_LENGTH, VALUE_LENGTH = 2 / 3, 1.0


@dataclass(frozen=True)
class RotatedCodec(Codec):
    """Codes of a rotated vector, and one 16-bit scale per vector.
    The mean of a block of keys is subtracted and stored with the block, because nearby keys are similar. For values,
    subtracting the mean was measured to hurt. The first entry is kept in 16 bits, since most queries attend to it
    strongly (attention sinks, https://arxiv.org/abs/2309.17453), so an error in it affects all outputs. See
    `pikvpress.kernels.rotation` for rotation, levels and scales. A part holds codes, then scales, the first entry, and
    means, all rotated.

    Parameters
    ----------
    block : int, default=256
        Number of keys that share a mean, a multiple of 64.
    lead : int, default=1
        Number of first entries kept in 16 bits: 1 or 0.
    """

    block: int = 256
    lead: int = 1

    @property
    def unit(self) -> int:
        """The number of channels of a row must be a multiple of this, so that scales start at an even byte."""
        assert self.bits is not None
        return 16 // math.gcd(16, self.bits)

    @property
    def following(self) -> Codec:
        """Codec for entries after the context, which are packed in groups, each with its own mean."""
        return replace(self, block=GROUP, lead=0)

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the number of bytes of ``rows`` rows of ``width`` numbers, including scales and means."""
        return sum(self._sizes(rows, width, is_keys))

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Encode rows (n, d) as bytes, uint8, shape (`nbytes`,).

        Raises
        ------
        ValueError
            If a number is too large for 16 bits.
        """
        if len(states) == 0:
            return torch.empty(0, dtype=torch.uint8, device=states.device)
        assert self.bits is not None
        turned = states.float() @ rotation(states.shape[1], states.device).T
        lead = to_half(turned[: self.lead])
        turned[: self.lead] = 0
        means = turned[:0].to(HALF)
        if is_keys:
            means = to_half(self._means(turned))
            turned[self.lead :] -= self._spread(means, len(turned))[self.lead :]
        codes, scales = pack_levels(turned, self.bits, KEY_LENGTH if is_keys else VALUE_LENGTH)
        halves = torch.cat([scales, lead.flatten(), means.flatten()])
        return torch.cat([codes.flatten(), halves.view(torch.uint8)])

    def decode(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> torch.Tensor:
        """Decode bytes to rows (n, d)."""
        turned = self.decode_rotated(stored, rows, width, torch.float32, is_keys)
        return (turned @ rotation(width, stored.device)).to(dtype)

    def decode_rotated(
        self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool
    ) -> torch.Tensor:
        """Decode bytes to rows (n, d) that are still rotated, as they were stored."""
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
        """Return the bytes of two stored parts as one; the blocks of the first must be full. For `following`."""
        split = (self._split(part, count, width) for part, count in zip((first, second), rows, strict=True))
        return torch.cat([piece for pair in zip(*split, strict=True) for piece in pair])

    def cut(self, stored: torch.Tensor, rows: tuple[int, int], width: int, is_keys: bool) -> torch.Tensor:
        """Return the bytes of the first rows[1] of rows[0] stored rows, a multiple of the block. For `following`."""
        left = self._sizes(rows[1], width, is_keys)
        parts = stored.split(self._sizes(rows[0], width, is_keys))
        return torch.cat([part[:size] for part, size in zip(parts, left, strict=True)])

    def groups(self, stored: torch.Tensor, kept: torch.Tensor, rows: int, width: int) -> torch.Tensor:
        """Return the bytes of some of the full groups of stored rows. For `following`."""
        parts = [part for part in self._split(stored, rows, width) if len(part)]  # only keys have means
        return torch.cat([part.view(rows // GROUP, -1)[kept].flatten() for part in parts])

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
        """Return the mean of each block; a first entry that is stored separately is 0 and does not count."""
        blocks = turned.split(self.block)
        sums = torch.stack([block.sum(dim=0) for block in blocks])
        counts = [len(block) - (self.lead if number == 0 else 0) for number, block in enumerate(blocks)]
        return sums / sums.new_tensor(counts).clamp_min(1)[:, None]

    def _spread(self, means: torch.Tensor, rows: int) -> torch.Tensor:
        """Return the mean of its block for each row, float32."""
        return means.float().repeat_interleave(self.block, dim=0)[:rows]
