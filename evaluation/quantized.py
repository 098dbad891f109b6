"""The baseline for fewer bytes: a kvpress press that removes tokens, with transformers' quantised cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from kvpress import BasePress, ScorerPress
from transformers import PreTrainedModel, QuantizedCache

from pikvpress import models
from pikvpress.presses.checks import checked_ratio


@dataclass
class QuantizedPress(BasePress):
    """Remove tokens with a press and hold the others in a `QuantizedCache`, so that a share of the bytes is left.

    The cache's scales and zero points count, in the model's dtype. If all tokens fit with this number of bits, none is
    removed.

    Parameters
    ----------
    press : ScorerPress
        The press that chooses the tokens.
    compression_ratio : float, default=0.0
        Share of the bytes to save, in [0, 1).
    bits : {4, 2}, default=4
        Bits per number, quantised by optimum-quanto in groups of 64, the setting of transformers.
    """

    press: ScorerPress
    compression_ratio: float = 0.0
    bits: int = 4
    _group: int = field(default=64, init=False)

    def __post_init__(self) -> None:
        if self.bits not in (2, 4):
            raise ValueError(f"bits must be 2 or 4, which the cache supports, got {self.bits}")

    def cache(self, model: PreTrainedModel) -> QuantizedCache:
        """Return a new cache for a model."""
        return QuantizedCache("quanto", model.config, nbits=self.bits, q_group_size=self._group)

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Prepare the press for a model, and find the share of its tokens that fits the bytes."""
        full = 8 * next(model.parameters()).element_size()
        entry = self.bits + 2 * full / self._group
        self.press.compression_ratio = max(0.0, 1 - (1 - checked_ratio(self.compression_ratio)) * full / entry)
        self.press.post_init_from_model(model)

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> Any:
        """Compress a layer after its attention."""
        return self.press.forward_hook(module, input, kwargs, output)


def bytes_of(cache: QuantizedCache) -> int:
    """Return the bytes that a cache holds: packed numbers, scales and zero points, and entries not packed yet."""
    total = 0
    layers: Iterable[Any] = cache.layers
    for layer in layers:
        for packed in (layer._quantized_keys, layer._quantized_values):
            total += sum(part.nbytes for part in (packed._data._data, packed._scale, packed._shift))
        total += layer.keys.nbytes + layer.values.nbytes
    return total
