"""The adaptive router."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router, confident_mask


class AdaptiveRouter(Router):
    """Use as many experts for a head as its gate is unsure: one where it is confident, up to `top_k` where not.

    A head takes the fewest experts whose probabilities together reach `importance_threshold`, at most `top_k`: top-p
    routing (https://arxiv.org/abs/2403.07652).
    """

    def select(self, probabilities: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return which experts each head uses, bool, shape (batch, kv_heads, experts)."""
        chosen = super().select(probabilities, available)
        return chosen & confident_mask(probabilities, self.settings.importance_threshold)
