"""A codec: how kept keys and values are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pikvpress.kernels.packing import codes_in_whole_bytes, dequantise, quantise_and_pack, unpack_bits

if TYPE_CHECKING:
    from pikvpress import models

GROUP = 64  # numbers that share a scale
HALF = torch.float16
SCALE_BYTES = 4  # a scale and a zero point per group


@dataclass(frozen=True)
class Codec:
    """A way to store rows of numbers as bytes.

    Parameters
    ----------
    name : str
        Name by which users select it.
    bits : int, optional
        Bits per number, with a scale and a zero point of 16 bits each for every 64 numbers. Without it, numbers are
        stored unchanged.
    """

    name: str
    bits: int | None = None

    @property
    def unit(self) -> int:
        """The number of channels must be a multiple of this, so that rows end at a full byte."""
        return 1 if self.bits is None else codes_in_whole_bytes(self.bits)

    @property
    def has_kernel(self) -> bool:
        """Whether attention kernels read it."""
        return True

    @property
    def following(self) -> Codec:
        """Codec for entries after the context, which are packed in groups."""
        return self

    def check_reader(self, module: models.Attention) -> None:
        """Raise a ``ValueError`` if the codec cannot be used in the model with this layer 0."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Codec:
        """Return self: a copied cache has the same codecs."""
        return self

    def check(self, head_dim: int) -> None:
        """Raise a ``ValueError`` if heads of this size do not fill complete bytes."""
        if head_dim % self.unit:
            raise ValueError(
                f"codec {self.name!r} packs {self.unit} numbers into whole bytes, but the head size {head_dim} is "
                f"not a multiple of that: choose int8{' or int4' if head_dim % 2 == 0 else ''}, or exact"
            )

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the number of bytes of ``rows`` rows of ``width`` numbers, including scales."""
        if self.bits is None:
            return rows * width * dtype.itemsize
        groups = -(-rows // GROUP) * width if is_keys else rows * -(-width // GROUP)
        return rows * width * self.bits // 8 + groups * SCALE_BYTES

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Encode rows (n, d) as bytes, uint8, shape (`nbytes`,).

        Keys are grouped along tokens, values along channels (KIVI, https://arxiv.org/abs/2402.02750).

        Raises
        ------
        ValueError
            If a number is too large for the scales.
        """
        if self.bits is None:
            return states.contiguous().view(torch.uint8).flatten()
        if states.shape[0] == 0:
            return torch.empty(0, dtype=torch.uint8, device=states.device)
        codes, scale, zero = quantise_and_pack(states, self.bits, GROUP, is_keys)
        return torch.cat([torch.stack([scale, zero]).view(torch.uint8).flatten(), codes.flatten()])

    def joined(self, first: torch.Tensor, second: torch.Tensor, rows: tuple[int, int], width: int) -> torch.Tensor:
        """Return the bytes of two stored parts as one; the groups of the first part must be full."""
        if self.bits is None or 0 in rows:
            return torch.cat([first, second])
        codes = [count * width * self.bits // 8 for count in rows]
        scales = [part[: len(part) - size].view(2, -1) for part, size in zip((first, second), codes, strict=True)]
        rest = [part[len(part) - size :] for part, size in zip((first, second), codes, strict=True)]
        return torch.cat([torch.cat(scales, dim=1).flatten(), *rest])

    def cut(self, stored: torch.Tensor, rows: tuple[int, int], width: int, is_keys: bool) -> torch.Tensor:
        """Return the bytes of the first rows[1] of rows[0] stored rows; for keys a multiple of the group."""
        if self.bits is None:
            return stored[: len(stored) * rows[1] // max(1, rows[0])]
        split = len(stored) - rows[0] * width * self.bits // 8
        size = self.nbytes(rows[1], width, torch.float32, is_keys) - rows[1] * width * self.bits // 8
        scales = stored[:split].view(2, -1)[:, : size // 2].flatten()
        return torch.cat([scales, stored[split : split + rows[1] * width * self.bits // 8]])

    def groups(self, stored: torch.Tensor, kept: torch.Tensor, rows: int, width: int) -> torch.Tensor:
        """Return the bytes of some of the groups of stored rows, all of which are full. For `following`.

        Parameters
        ----------
        stored : torch.Tensor
            uint8.
        kept : torch.Tensor
            Indices of the groups, ascending, int64.
        rows, width : int
            Number of rows and their width.
        """
        if self.bits is None:
            return stored.view(rows // GROUP, -1)[kept].flatten()
        codes = rows * width * self.bits // 8
        scales, rest = stored[: len(stored) - codes], stored[len(stored) - codes :]
        parts = (scales.view(2, rows // GROUP, -1)[:, kept], rest.view(rows // GROUP, -1)[kept])
        return torch.cat([part.flatten() for part in parts])

    def decode(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> torch.Tensor:
        """Decode bytes to rows (n, d); a view of the bytes if numbers are stored unchanged."""
        if self.bits is None:
            return stored.view(dtype).view(rows, width)
        if rows == 0:
            return torch.empty(0, width, dtype=dtype, device=stored.device)
        split = stored.shape[0] - rows * width * self.bits // 8
        shape = (2, -(-rows // GROUP), width) if is_keys else (2, rows, -(-width // GROUP))
        scale, zero = stored[:split].view(torch.float16).view(shape)
        codes = unpack_bits(stored[split:].view(rows, -1), self.bits)
        return dequantise(codes, scale, zero, GROUP, is_keys, dtype)

    def read_back(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Return rows (n, d) as they are read after being stored."""
        return self.decode(self.encode(states, is_keys), len(states), states.shape[1], states.dtype, is_keys)


def to_half(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers in float16.

    Raises
    ------
    ValueError
        If one is too large for it.
    """
    half = numbers.to(HALF)
    if not half.isfinite().all():
        raise ValueError(f"numbers up to {numbers.abs().max().item():.3g} do not fit into float16: keep them exact")
    return half
