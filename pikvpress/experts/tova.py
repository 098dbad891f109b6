"""kvpress's TOVA, also where a rank holds only some of the heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import TOVAPress

from pikvpress import models
from pikvpress.ranks import shard_of


@dataclass
class StreamedTOVAPress(TOVAPress):
    """Score keys as kvpress's `TOVAPress` does (https://arxiv.org/abs/2401.06104): by the mean over all heads."""

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the attention of the last token, averaged over all heads of the model, (batch, kv_heads, keys)."""
        scores = super().score(module, hidden_states, keys, values, attentions, kwargs)
        shard = shard_of(module)
        if shard.is_whole:
            return scores
        of_ranks = shard.gathered(scores[:, :1], 1)  # all heads of a rank have its mean, and ranks have as many heads
        return of_ranks.mean(dim=1, keepdim=True).expand_as(scores)
