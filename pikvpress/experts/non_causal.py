"""kvpress's non-causal attention, without storing repeated keys or the logits of chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kvpress import NonCausalAttnPress

from pikvpress import models
from pikvpress.kernels.chunk_attention import chunk_attention
from pikvpress.ranks import shard_of


@dataclass
class StreamedNonCausalAttnPress(NonCausalAttnPress):
    """Score keys as kvpress's `NonCausalAttnPress` does (https://arxiv.org/abs/2507.08143).

    The settings are the same and, in float32, so are the scores. The computation does not synchronise with the host.
    """

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor | None,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return attention within chunks times the norm of the value, smoothed, and normalised over the model's heads.

        Shape (batch, kv_heads, keys).

        Raises
        ------
        ValueError
            If the numbers of hidden states and keys differ, or the chunk size is below 1.
        """
        queries = models.queries_before_rotation(module, hidden_states)
        cos, sin = kwargs["position_embeddings"]
        tokens = hidden_states.shape[1]
        queries = models.rotate(queries, cos[:, -tokens:], sin[:, -tokens:])
        scores = chunk_attention(queries, keys, self.chunk_size) * values.norm(dim=-1)
        scores = F.avg_pool1d(scores, kernel_size=3, stride=1, padding=1)
        of_all = shard_of(module).gathered(scores, 1)
        return (scores - of_all.mean()) / of_all.std().clamp_min(1e-6)
