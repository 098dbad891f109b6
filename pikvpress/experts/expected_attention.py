"""kvpress's expected attention, without storing repeated keys or centred queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import ExpectedAttentionPress

from pikvpress import models
from pikvpress.kernels.expected_attention import expected_attention, query_moments


@dataclass
class StreamedExpectedAttentionPress(ExpectedAttentionPress):
    """Score keys as kvpress's `ExpectedAttentionPress` does (https://arxiv.org/abs/2510.00636).

    The settings are the same and, in float32, so are the scores. Moments, logits and scores are float32 for every model
    dtype, and the computation does not synchronise with the host.
    """

    def get_query_statistics(
        self, module: models.Attention, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return mean and covariance of the queries, rotated to future positions; no covariance if it is not used."""
        queries = models.queries_before_rotation(module, hidden_states[:, self.n_sink :])
        if self.use_covariance:
            mean, covariance = query_moments(queries)
        else:
            mean, covariance = queries.mean(dim=2, dtype=torch.promote_types(queries.dtype, torch.float32)), None
        return self.apply_avg_rope(module, mean, covariance, hidden_states.shape[1])

    def apply_avg_rope(
        self, module: models.Attention, mu: torch.Tensor, cov: torch.Tensor | None, q_len: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return mean (batch, heads, D) and covariance (batch, heads, D, D) under the mean future rotation."""
        positions = torch.arange(q_len, q_len + self.n_future_positions, device=mu.device).unsqueeze(0)
        cos, sin = (table.mean(dim=1, keepdim=True) for table in models.rotary_embedding(module, mu, positions))
        mu = models.rotate(mu.unsqueeze(2), cos, sin).squeeze(2)
        if cov is not None:
            cov = models.rotate(models.rotate(cov, cos, sin).transpose(2, 3), cos, sin).transpose(2, 3)
        return mu, cov

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return expected attention times the norm of the value, shape (batch, kv_heads, keys).

        Raises
        ------
        ValueError
            If there are no keys or no hidden states after the first `n_sink`.
        """
        sinks = self.n_sink
        fewest = min(keys.shape[2], hidden_states.shape[1])
        if fewest <= sinks:
            raise ValueError(f"n_sink={sinks} leaves nothing to score of {fewest} tokens: lower it, or use more tokens")
        mean, covariance = self.get_query_statistics(module, hidden_states)
        scores = expected_attention(keys[:, :, sinks:], mean, covariance, keys.shape[-1] ** -0.5)
        if self.use_vnorm:
            lengths = torch.linalg.vector_norm(values[:, :, sinks:], dim=-1, dtype=scores.dtype)
            scores = (scores + self.epsilon) * lengths
        above = (scores.amax() + 1).expand(*scores.shape[:2], sinks)  # the first tokens are always kept
        return torch.cat([above, scores], dim=-1)
