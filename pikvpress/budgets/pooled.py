"""Budgets from the scores themselves: heads compete for one pool of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOOR = 0.2  # share of the equal budget that every head keeps, as in AdaKV


def pooled(scores: Sequence[torch.Tensor], num_kept: int, floor: float = FLOOR) -> list[torch.Tensor]:
    """Keep the highest scores over all heads, but first a minimum number of each head's own highest scores.

    Over the heads of one layer this is Ada-KV (https://arxiv.org/abs/2407.11550); over all layers it is one global
    pool. Scores must be comparable across heads, such as shares of attention.

    Parameters
    ----------
    scores : sequence of torch.Tensor
        One tensor per layer, shape (batch, kv_heads, keys), higher = keep. Layers may be on different devices.
    num_kept : int
        Mean number of tokens that a head keeps.
    floor : float, default=0.2
        Share of `num_kept` that every head keeps, in [0, 1].

    Returns
    -------
    list of torch.Tensor
        Masks of the kept entries, bool, with the shapes of the scores, on their devices. Each row of the batch keeps
        ``num_kept`` times its number of heads.

    Raises
    ------
    ValueError
        If the floor is out of range.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], got {floor}")
    together = torch.cat([part.to(scores[0].device) for part in scores], dim=1)
    least = max(1, int(num_kept * floor))
    first = torch.zeros_like(together, dtype=torch.bool)
    first.scatter_(-1, together.topk(least, dim=-1, sorted=False).indices, True)
    rest = together.masked_fill(first, -torch.inf).flatten(1)
    count = together.shape[1] * (num_kept - least)
    kept = first.flatten(1).scatter(1, rest.topk(count, dim=1, sorted=False).indices, True)
    parts = kept.view_as(together).split([part.shape[1] for part in scores], dim=1)
    return [part.to(own.device) for part, own in zip(parts, scores, strict=True)]
