"""TurboQuant (https://arxiv.org/abs/2504.19874) as the package turboquant-kv has it: rotated codes, and a sketch.

The package holds an integer of 64 bits for every code and a number of 32 for every sign. The bytes counted here are
those of the format that it describes: all but one of the bits of a number for its code, one for the sign in the sketch
of what the codes miss, and 16 bits for the length of each vector and of what the codes miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from transformers import PreTrainedModel

from evaluation.coded import CodedPress

LENGTHS_BITS = 2 * 16


@dataclass
class TurboQuantPress(CodedPress):
    """Code keys and values by its Algorithm 2, whose inner products are unbiased.

    Parameters
    ----------
    press, compression_ratio
        As in `CodedPress`.
    bits : float, default=3
        Bits per number, at least 1; with a fraction, some coordinates have one bit more than others.
    """

    bits: float = 3
    _quantizers: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, Real) or not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be a number from 1 to 8, got {self.bits!r}")

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Prepare the press for a model and a new context."""
        super().post_init_from_model(model)
        self._quantizers = {}

    def code(self, states: torch.Tensor, is_keys: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what keys or values are after coding, and the bits of each vector."""
        from turboquant import TurboQuantProd

        width = states.shape[3]
        if width not in self._quantizers:
            self._quantizers[width] = TurboQuantProd(bits=self.bits, head_dim=width, device=str(states.device))
        decoded = self._quantizers[width].quantize(states)[0].to(states.dtype)
        return decoded, torch.full(states.shape[:3], self.bits * width + LENGTHS_BITS, device=states.device)
