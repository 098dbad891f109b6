"""Which entries a mask marks as padding."""

from __future__ import annotations

from typing import Any

import torch


def padding(mask: Any, length: int) -> torch.Tensor | None:
    """Return which entries are hidden even from the last query, as padding is.

    Parameters
    ----------
    mask : torch.Tensor, optional
        As an attention layer receives it: bool or additive of shape (batch, 1, queries, keys), or 0/1 of shape (batch,
        keys), as for flash attention. Anything else says nothing about padding.
    length : int
        Number of entries; a mask of another length says nothing about them.

    Returns
    -------
    torch.Tensor or None
        bool, shape (batch, entries); the batch is 1 if all rows share the mask. None if unknown.
    """
    if not isinstance(mask, torch.Tensor) or mask.shape[-1] != length or mask.dim() not in (2, 4):
        return None
    if mask.dim() == 2:
        return mask == 0
    return is_hidden(mask[:, 0, -1])


def is_hidden(mask: torch.Tensor) -> torch.Tensor:
    """Return what a bool or additive mask hides."""
    return ~mask if mask.dtype == torch.bool else mask < 0
