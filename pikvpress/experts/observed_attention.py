"""H2O-style observed attention over a window of queries, in any attention mode."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pikvpress import models
from pikvpress.experts.ordered import OrderedScorerPress
from pikvpress.kernels.column_sums import column_sums
from pikvpress.kernels.window_scores import received_attention


@dataclass
class WindowedObservedAttentionPress(OrderedScorerPress):
    """Score keys by the attention that they receive from the latest queries.

    H2O (https://arxiv.org/abs/2306.14048) accumulates the attention from all queries to a key. kvpress's
    `ObservedAttentionPress` reads it from the attention matrix, which needs eager attention and memory quadratic in the
    context length. Here the causal attention of the last `window_size` queries is computed from their hidden states,
    and each key's sum is divided by the number of these queries that can attend to it.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    window_size : int or None, default=256
        Number of latest queries; None for all. With all queries the scores are those of `ObservedAttentionPress`, in
        memory that is linear in the context length.
    """

    compression_ratio: float = 0.0
    window_size: int | None = 256

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return observed attention, shape (batch, kv_heads, keys)."""
        num_keys = keys.shape[2]
        window = min(self.window_size or num_keys, hidden_states.shape[1], num_keys)
        queries = models.queries_before_rotation(module, hidden_states[:, -window:])
        cos, sin = kwargs["position_embeddings"]
        queries = models.rotate(queries, cos[:, -window:], sin[:, -window:])
        seen_by = (num_keys - torch.arange(num_keys, device=keys.device)).clamp(max=window)
        received = column_sums if window == num_keys else received_attention
        return received(queries, keys, module.scaling) / seen_by
