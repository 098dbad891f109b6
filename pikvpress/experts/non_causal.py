"""kvpress's non-causal attention without repeated keys or chunks' logits in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kvpress import NonCausalAttnPress

from pikvpress import models
from pikvpress.kernels.chunk_attention import chunk_attention


@dataclass
class StreamedNonCausalAttnPress(NonCausalAttnPress):
    """Score keys as kvpress's `NonCausalAttnPress` does (https://arxiv.org/abs/2507.08143).

    Its settings, and in float32 its scores; the host waits for nothing.
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
        """Return attention within chunks times the length of the value, smoothed, normalised over all heads.

        Shape (batch, kv_heads, keys).

        Raises
        ------
        ValueError
            If there are not as many hidden states as keys, or a chunk has no token.
        """
        queries = models.queries_before_rotation(module, hidden_states)
        cos, sin = kwargs["position_embeddings"]
        tokens = hidden_states.shape[1]
        queries = models.rotate(queries, cos[:, -tokens:], sin[:, -tokens:])
        scores = chunk_attention(queries, keys, self.chunk_size) * values.norm(dim=-1)
        scores = F.avg_pool1d(scores, kernel_size=3, stride=1, padding=1)
        return (scores - scores.mean()) / scores.std().clamp_min(1e-6)
