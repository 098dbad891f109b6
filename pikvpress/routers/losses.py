"""Losses that keep all experts in use while gates are fitted."""

from __future__ import annotations

import torch


def switch_loss(probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return E · Σ_e f_e · P_e, the load-balancing loss of the Switch Transformer (https://arxiv.org/abs/2101.03961).

    f_e is the share of the choices that fall on expert e, and P_e is its mean probability. Uniform use gives the
    minimum, 1; only P has a gradient.

    Parameters
    ----------
    probabilities : torch.Tensor
        Shape (..., experts), rows summing to 1.
    chosen : torch.Tensor
        Mask of the experts that were used, bool, same shape.
    """
    experts = probabilities.shape[-1]
    used = chosen.reshape(-1, experts).float().sum(dim=0)
    share = used / used.sum().clamp_min(1)
    return experts * (share * probabilities.reshape(-1, experts).mean(dim=0)).sum()


def imbalance(probabilities: torch.Tensor, mode: str) -> torch.Tensor:
    """Return how unevenly the mean probabilities of the experts are distributed: 0 = uniform.

    Parameters
    ----------
    probabilities : torch.Tensor
        Shape (..., experts), rows summing to 1; p below is their mean over the rows.
    mode : {"entropy", "variance", "gini"}
        1 - H(p) / log E; E · Σ (p - 1/E)²; or the Gini coefficient Σ_ij |p_i - p_j| / (2 E).
    """
    experts = probabilities.shape[-1]
    mean = probabilities.reshape(-1, experts).mean(dim=0)
    if experts == 1:
        return mean.sum() * 0
    if mode == "entropy":
        entropy = -(mean * mean.clamp_min(1e-12).log()).sum()
        return 1 - entropy / torch.tensor(float(experts)).log().item()
    if mode == "variance":
        return experts * ((mean - 1 / experts) ** 2).sum()
    if mode == "gini":
        return (mean.unsqueeze(0) - mean.unsqueeze(1)).abs().sum() / (2 * experts)
    raise ValueError(f"mode must be 'entropy', 'variance' or 'gini', got {mode!r}")
