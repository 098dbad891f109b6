"""Budgets by the scores themselves: heads compete for one pool of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOOR = 0.2  # share of its equal budget that every head keeps, as in AdaKV


def pooled(scores: Sequence[torch.Tensor], num_kept: int, floor: float = FLOOR) -> list[torch.Tensor]:
    """Keep the highest scores of all heads together, but of every head its own highest first.

    Over the heads of one layer this is Ada-KV (https://arxiv.org/abs/2407.11550); over all layers, one global pool. It
    needs scores that mean the same in every head, such as shares of attention.

    Parameters
    ----------
    scores : sequence of torch.Tensor
        By layer, shape (batch, kv_heads, keys), higher = keep.
    num_kept : int
        Tokens a head keeps in the mean.
    floor : float, default=0.2
        Share of `num_kept` that every head keeps, in [0, 1].

    Returns
    -------
    list of torch.Tensor
        What is kept, bool, shapes as of the scores; each row of the batch keeps ``num_kept`` times its heads.

    Raises
    ------
    ValueError
        If the floor is out of range.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], got {floor}")
    together = torch.cat(list(scores), dim=1)
    least = max(1, int(num_kept * floor))
    first = torch.zeros_like(together, dtype=torch.bool)
    first.scatter_(-1, together.topk(least, dim=-1, sorted=False).indices, True)
    rest = together.masked_fill(first, -torch.inf).flatten(1)
    count = together.shape[1] * (num_kept - least)
    kept = first.flatten(1).scatter(1, rest.topk(count, dim=1, sorted=False).indices, True)
    return list(kept.view_as(together).split([part.shape[1] for part in scores], dim=1))
