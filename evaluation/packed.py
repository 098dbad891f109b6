"""Codecs by themselves: no token is removed, and all of the context is packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from kvpress import BasePress
from transformers import PreTrainedModel

from pikvpress import PiKVCache, models
from pikvpress.cache import codec


@dataclass
class PackedPress(BasePress):
    """Keep every token, in one codec for the keys of all heads and one for their values.

    Parameters
    ----------
    keys, values : str
        Codecs as `PiKVCache` knows them.

    Raises
    ------
    ValueError
        For an unknown codec.
    """

    keys: str
    values: str

    def __post_init__(self) -> None:
        self._codecs = codec(self.keys), codec(self.values)

    def cache(self, model: PreTrainedModel) -> PiKVCache:
        """Return a new cache for a model."""
        return PiKVCache(window=0)

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> Any:
        """Pack a layer after its attention."""
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        everything = torch.ones(layer.keys.shape[:3], dtype=torch.bool, device=layer.keys.device)
        key_codecs, value_codecs = ([one] * everything.shape[1] for one in self._codecs)
        layer.pack(everything, key_codecs, value_codecs, 0)
        return output
