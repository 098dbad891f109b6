"""kvpress's Compactor with our implementation of its attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import CompactorPress

from pikvpress import models
from pikvpress.experts.leverage import StreamedLeverageScorePress
from pikvpress.experts.non_causal import StreamedNonCausalAttnPress
from pikvpress.ranks import shard_of


@dataclass
class StreamedCompactorPress(CompactorPress):
    """Score keys as kvpress's `CompactorPress` does (https://arxiv.org/abs/2507.08143).

    The settings are the same and, in float32, so are the scores.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._leverage_press = StreamedLeverageScorePress(self.compression_ratio, self.sketch_dimension)
        self._non_causal_press = StreamedNonCausalAttnPress(self.compression_ratio, chunk_size=self.chunk_size)

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the blended scores; the first and last tokens get the highest one of all heads of the model."""
        scores = super().score(module, hidden_states, keys, values, attentions, kwargs)
        shard = shard_of(module)
        if not shard.is_whole:
            highest, length = shard.gathered(scores.amax(dim=2), 1).amax(), scores.shape[2]
            first = min(self.sink_size_start, length)
            scores[..., :first] = highest
            scores[..., max(first, length - self.sink_size_end) :] = highest
        return scores
