"""kvpress's KeyDiff in two passes over the keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import KeyDiffPress

from pikvpress import models
from pikvpress.kernels.key_geometry import cosines, mean_direction


@dataclass
class StreamedKeyDiffPress(KeyDiffPress):
    """Score keys as kvpress's `KeyDiffPress` does (https://arxiv.org/abs/2504.15364), in float32 and without a copy.

    The less a key points in the mean direction of the keys, the higher its score.
    """

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the negative cosine to the mean direction, shape (batch, kv_heads, keys)."""
        return -cosines(keys, mean_direction(keys))
