"""The top-k balanced router."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router
from pikvpress.routers.losses import imbalance


class TopKBalancedRouter(Router):
    """Route like the base router, with a penalty during fitting if experts are used unevenly.

    `balance_coefficient` times an imbalance of the mean probabilities is added to the auxiliary loss. `balance_mode`
    selects it: the entropy deficit, the variance or the Gini coefficient (`losses.imbalance`).
    """

    def auxiliary_loss(self, probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the Switch loss plus the imbalance, a scalar."""
        penalty = imbalance(probabilities, self.settings.balance_mode)
        return super().auxiliary_loss(probabilities, chosen) + self.settings.balance_coefficient * penalty
