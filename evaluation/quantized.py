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

BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8)}


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
    bits : int, default=4
        Bits per number in groups of 64, the setting of transformers: 4 or 2 with optimum-quanto; 8, 4, 3, 2 or 1 with
        HQQ, which stores ten numbers of 3 bits in 32.
    backend : {"quanto", "hqq"}, default="quanto"
        Package that quantises: optimum-quanto by smallest and largest number, HQQ by a few steps of optimisation
        (https://mobiusml.github.io/hqq_blog).
    """

    press: ScorerPress
    compression_ratio: float = 0.0
    bits: int = 4
    backend: str = "quanto"
    _group: int = field(default=64, init=False)

    def __post_init__(self) -> None:
        if self.backend not in BITS:
            raise ValueError(f"backend must be {' or '.join(BITS)}, got {self.backend!r}")
        *others, last = BITS[self.backend]
        if self.bits not in BITS[self.backend]:
            offered = f"{', '.join(map(str, others))} or {last}"
            raise ValueError(f"bits must be {offered}, which the cache supports, got {self.bits}")

    def cache(self, model: PreTrainedModel) -> QuantizedCache:
        """Return a new cache for a model."""
        return QuantizedCache(self.backend, model.config, nbits=self.bits, q_group_size=self._group)

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Prepare the press for a model, and find the share of its tokens that fits the bytes."""
        full = 8 * next(model.parameters()).element_size()
        codes = 32 * -(-self._group // 10) / self._group if self.bits == 3 else self.bits
        entry = codes + 2 * full / self._group
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
            total += sum(part.nbytes for part in _parts(packed))
        total += layer.keys.nbytes + layer.values.nbytes
    return total


def _parts(packed: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, scales and zero points as HQQ or optimum-quanto hold them."""
    if isinstance(packed, tuple):
        codes, meta = packed
        return codes, meta["scale"], meta["zero"]
    return packed._data._data, packed._scale, packed._shift
