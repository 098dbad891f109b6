"""The static router: what calibration learned about each head, independent of the input."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router


class StaticRouter(Router):
    """Route every head the same way on every input.

    FastGen (https://arxiv.org/abs/2310.01801) chooses a policy for a head from what the head attends to in the input.
    This router is the opposite extreme and serves as a baseline for the others: it looks at no head features. Without
    fitted gates, it blends with the experts' prior weights.
    """

    def begin(self, evidence: torch.Tensor) -> None:
        """Leave the evidence at nothing."""

    def sees(self, feature: str) -> bool:
        """Return False: it looks at no head features."""
        return False
