"""The adaptive router."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router, confident_mask


class AdaptiveRouter(Router):
    """Use one expert for a head where its gate is confident, and up to `top_k` experts where it is not.

    A head uses the smallest number of experts whose probabilities sum to at least `importance_threshold`, at most
    `top_k`: top-p routing (https://arxiv.org/abs/2403.07652).
    """

    def select(self, probabilities: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return which experts each head uses, bool, shape (batch, kv_heads, experts)."""
        chosen = super().select(probabilities, available)
        return chosen & confident_mask(probabilities, self.settings.importance_threshold)
