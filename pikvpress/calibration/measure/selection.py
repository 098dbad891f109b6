"""Differentiable selection of the keys that a router's blend keeps."""

from __future__ import annotations

import torch

from pikvpress.calibration.measure.record import Seen
from pikvpress.kernels.compact import highest
from pikvpress.routers import Router


def kept_keys(blended: torch.Tensor, counts: torch.Tensor, softness: float) -> torch.Tensor:
    """Return 1 for each head's highest blended ranks and 0 for the others, with the gradient of a sigmoid.

    Parameters
    ----------
    blended : torch.Tensor
        Blended ranks, or other scores, shape (kv_heads, keys); gradients flow to them.
    counts : torch.Tensor
        Number of keys that each head keeps, shape (kv_heads,).
    softness : float
        Width of the sigmoid, in units of the scores.
    """
    chosen = highest(blended.detach().unsqueeze(0), counts)[0]
    ordered = blended.detach().sort(dim=-1, descending=True).values
    threshold = ordered.gather(-1, (counts - 1).clamp_min(0).unsqueeze(-1))
    soft = torch.sigmoid((blended - threshold) / softness)
    return chosen.float() + soft - soft.detach()


def blended_ranks(
    router: Router, index: int, seen: Seen, ratio: int, dense: bool = False, available: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's blended ranks (kv_heads, keys) and the auxiliary loss.

    If dense, all experts are blended. By default, all are available, bool, shape (experts,).
    """
    if available is None:
        available = torch.ones(seen.ranks.shape[2], dtype=torch.bool, device=seen.ranks.device)
    features = seen.features[ratio].unsqueeze(0)
    routing = router(index, features, available)
    weights = router.probabilities(index, features, available) if dense else routing.weights
    return (weights[0].unsqueeze(1) @ seen.ranks[ratio]).squeeze(1), routing.auxiliary_loss
