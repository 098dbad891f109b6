"""The definition of compaction: which rows stay, in position order, and their copies."""

from __future__ import annotations

import torch


def select(scores: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the positions of the highest scores, in ascending position.

    Parameters
    ----------
    scores : torch.Tensor
        Shape (B, H, T), higher = keep.
    num_kept : int
        How many to keep, 1 <= num_kept <= T.

    Returns
    -------
    torch.Tensor
        int64, shape (B, H, num_kept).
    """
    return scores.topk(num_kept, dim=-1, sorted=False).indices.sort(dim=-1).values


def highest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return which entries are among the highest scores of their head; of equal ones the first.

    Parameters
    ----------
    scores : torch.Tensor
        Shape (B, H, T), higher = keep.
    counts : torch.Tensor
        How many each head keeps, int64, shape (H,), between 0 and T.

    Returns
    -------
    torch.Tensor
        bool, shape (B, H, T).
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    kept = torch.arange(scores.shape[-1], device=scores.device) < counts[:, None]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, kept.expand_as(scores))


def gather_rows(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Copy the rows of keys or values (B, H, T, D) at ``positions`` (B, H, n) into a new tensor (B, H, n, D)."""
    return states.gather(2, positions.unsqueeze(-1).expand(-1, -1, -1, states.shape[-1]))
