"""Codecs that turn vectors before they round them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pikvpress.cache.codec import GROUP, Codec
from pikvpress.kernels.packing import pack_bits
from pikvpress.kernels.rotation import look_up, quantise_levels, rotation

HALF = torch.float16


@dataclass(frozen=True)
class RotatedCodec(Codec):
    """Codes of a rotated vector, and one 16-bit scale a vector.

    Keys are stored without the mean of their block, which is kept beside them: they have much in common with what
    stands near. Values are not: their mean over tokens says little, and taking it out was measured to hurt. See
    `pikvpress.kernels.rotation` for rotation, levels and scales.

    A part holds codes, then scales, then means.

    Parameters
    ----------
    block : int, default=256
        Keys that share a mean, a multiple of 64.
    """

    block: int = 256

    @property
    def unit(self) -> int:
        """Of how many numbers a row must hold a multiple: scales start at an even byte."""
        assert self.bits is not None
        return 16 // math.gcd(16, self.bits)

    @property
    def following(self) -> Codec:
        """For entries that come after the context, group by group: each brings its own mean."""
        return replace(self, block=GROUP)

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the bytes of ``rows`` rows of ``width`` numbers, scales and means included."""
        means = -(-rows // self.block) * width if is_keys else 0
        return self._code_bytes(rows, width) + (rows + means) * HALF.itemsize

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Return rows (n, d) as bytes, uint8, shape (`nbytes`,).

        Raises
        ------
        ValueError
            If a number is too large for the scales.
        """
        if len(states) == 0:
            return torch.empty(0, dtype=torch.uint8, device=states.device)
        assert self.bits is not None
        turned = states.float() @ rotation(states.shape[1], states.device).T
        parts = []
        if is_keys:
            means = torch.stack([block.mean(dim=0) for block in turned.split(self.block)]).to(HALF)
            turned = turned - self._spread(means, len(turned))
            parts = [means.view(torch.uint8).flatten()]
        codes, scales = quantise_levels(turned, self.bits, unbiased=not is_keys)
        return torch.cat([pack_bits(codes, self.bits).flatten(), scales.view(torch.uint8), *parts])

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
        codes, scales, means = self._split(stored, rows, width)
        turned = look_up(codes.view(rows, -1), scales.view(HALF), self.bits)
        if is_keys:
            turned += self._spread(means.view(HALF).view(-1, width), rows)
        return turned.to(dtype)

    def joined(self, first: torch.Tensor, second: torch.Tensor, rows: tuple[int, int], width: int) -> torch.Tensor:
        """Return the bytes of two stored parts as one; the rows of the first fill its blocks."""
        split = (self._split(part, count, width) for part, count in zip((first, second), rows, strict=True))
        return torch.cat([piece for pair in zip(*split, strict=True) for piece in pair])

    def cut(self, stored: torch.Tensor, rows: tuple[int, int], width: int, is_keys: bool) -> torch.Tensor:
        """Return the bytes of the first rows[1] of rows[0] stored rows; for keys a multiple of the block."""
        codes, scales, means = self._split(stored, rows[0], width)
        blocks = -(-rows[1] // self.block) if is_keys else 0
        return torch.cat(
            [
                codes[: self._code_bytes(rows[1], width)],
                scales[: rows[1] * HALF.itemsize],
                means[: blocks * width * HALF.itemsize],
            ]
        )

    def _code_bytes(self, rows: int, width: int) -> int:
        assert self.bits is not None
        return rows * width * self.bits // 8

    def _split(self, stored: torch.Tensor, rows: int, width: int) -> tuple[torch.Tensor, ...]:
        """Return the bytes of codes, scales and means."""
        codes, scales = self._code_bytes(rows, width), rows * HALF.itemsize
        return stored.split([codes, scales, len(stored) - codes - scales])

    def _spread(self, means: torch.Tensor, rows: int) -> torch.Tensor:
        """Return means of blocks as one of each row, float32."""
        return means.float().repeat_interleave(self.block, dim=0)[:rows]
