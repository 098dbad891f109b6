"""Codecs that keep a few directions of the numbers and, optionally, the error in a few bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pikvpress.cache.codec import HALF, Codec, to_half
from pikvpress.cache.codecs import CODECS


@dataclass(frozen=True)
class LowRankCodec(Codec):
    """The mean, the leading principal directions, and coordinates along them in 8 bits.

    Palu (https://arxiv.org/abs/2407.21118) and LoRC (https://arxiv.org/abs/2410.03111) factor the projection weights;
    here the directions are computed from the context's own keys or values by singular value decomposition and stored
    with them. The residual can be stored as well, in 2 bits, as GEAR (https://arxiv.org/abs/2403.05527) stores its
    quantisation error.

    Parameters
    ----------
    rank : int
        Number of directions to keep.
    residual : Codec, optional
        Codec for the residual.
    """

    rank: int = 0
    residual: Codec | None = None

    @property
    def unit(self) -> int:
        """The number of channels of a row must be a multiple of this, so that rows end at a full byte."""
        return 1 if self.residual is None else self.residual.unit

    @property
    def has_kernel(self) -> bool:
        """Whether attention kernels read it."""
        return False

    @property
    def following(self) -> Codec:
        """Codec for entries packed in groups, where separate directions would cost more than they save."""
        return CODECS["int8"]

    def check(self, head_dim: int) -> None:
        """Raise a ``ValueError`` unless there are more channels than directions."""
        if self.rank >= head_dim:
            raise ValueError(
                f"codec {self.name!r} keeps {self.rank} directions, which must be fewer than the head size {head_dim}: "
                "choose a lower rank, or int8"
            )
        super().check(head_dim)

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the number of bytes of ``rows`` rows of ``width`` numbers, including directions and scales."""
        if rows == 0:
            return 0
        rank = min(self.rank, rows)
        factors = (rank + 1) * width * HALF.itemsize
        left = 0 if self.residual is None else self.residual.nbytes(rows, width, dtype, is_keys)
        return factors + CODECS["int8"].nbytes(rows, rank, dtype, True) + left

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Encode rows (n, d) as bytes."""
        if len(states) == 0:
            return torch.empty(0, dtype=torch.uint8, device=states.device)
        numbers = states.float()
        mean = to_half(numbers.mean(dim=0, keepdim=True))
        singular = torch.linalg.svd(numbers - mean.float(), full_matrices=False)
        directions = to_half(singular.Vh[: min(self.rank, len(states))])
        coordinates = (numbers - mean.float()) @ directions.float().T
        stored = [torch.cat([mean, directions]).view(torch.uint8).flatten(), CODECS["int8"].encode(coordinates, True)]
        if self.residual is not None:
            approximate = self._approximate(torch.cat(stored), len(states), states.shape[1], torch.float32)
            stored.append(self.residual.encode(numbers - approximate, is_keys))
        return torch.cat(stored)

    def decode(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> torch.Tensor:
        """Decode bytes to rows (n, d)."""
        if rows == 0:
            return torch.empty(0, width, dtype=dtype, device=stored.device)
        approximate = self._approximate(stored, rows, width, torch.float32)
        if self.residual is not None:
            size = self.residual.nbytes(rows, width, dtype, is_keys)
            rest = stored[len(stored) - size :].clone()  # it may start at an odd byte
            approximate += self.residual.decode(rest, rows, width, torch.float32, is_keys)
        return approximate.to(dtype)

    def _approximate(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        rank = min(self.rank, rows)
        split = (rank + 1) * width * HALF.itemsize
        factors = stored[:split].view(HALF).view(rank + 1, width).to(dtype)
        size = CODECS["int8"].nbytes(rows, rank, dtype, True)
        coordinates = CODECS["int8"].decode(stored[split : split + size], rows, rank, dtype, True)
        return torch.addmm(factors[:1], coordinates, factors[1:])
