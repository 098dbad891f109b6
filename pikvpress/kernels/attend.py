"""Attention weights of some queries, written to a buffer that is reused.

On a CPU, allocating memory for every step takes more time than the matrix products, since the system has to find and
clear the pages.
"""

from __future__ import annotations

import torch


def attend(
    rows: torch.Tensor, keys: torch.Tensor, scaling: float, buffer: torch.Tensor, hidden: torch.Tensor | None = None
) -> torch.Tensor:
    """Write softmax(rows keysᵀ · scaling) into a buffer.

    Parameters
    ----------
    rows : torch.Tensor
        Queries, shape (..., Q, D).
    keys : torch.Tensor
        Shape (..., T, D).
    scaling : float
        Factor on the logits.
    buffer : torch.Tensor
        float32 or float64, shape (..., Q, T); its contents are overwritten.
    hidden : torch.Tensor, optional
        Which of the last n keys each query must not see, bool, shape (Q, n).

    Returns
    -------
    torch.Tensor
        The buffer.
    """
    if rows.dtype == buffer.dtype:
        torch.matmul(rows, keys.transpose(-1, -2), out=buffer)
    else:
        buffer.copy_(rows @ keys.transpose(-1, -2))
    if scaling != 1:
        buffer.mul_(scaling)
    if hidden is not None:
        buffer[..., buffer.shape[-1] - hidden.shape[1] :].masked_fill_(hidden, -torch.inf)
    return torch.softmax(buffer, dim=-1, out=buffer)
