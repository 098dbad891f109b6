"""The static router: what calibration learnt about each head, whatever the input."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router


class StaticRouter(Router):
    """Route every head the same way on every input.

    FastGen (https://arxiv.org/abs/2310.01801) chooses a policy for a head from what the head attends to on the input;
    this router is the other extreme, and what the others are compared with: it looks at no head feature. Unfitted, it
    blends by the experts' prior weights alone.
    """

    def begin(self, evidence: torch.Tensor) -> None:
        """Leave the evidence at nothing."""

    def sees(self, feature: str) -> bool:
        """Return that it looks at no head feature."""
        return False
