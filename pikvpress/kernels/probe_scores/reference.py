"""The definition of probe scores, in plain torch."""

from __future__ import annotations

import torch

from pikvpress.kernels.attend import attend


@torch.no_grad()
def probe_scores(queries: torch.Tensor, keys: torch.Tensor, scaling: float, block: int = 64) -> torch.Tensor:
    """Return √(mean · maximum) of the attention that each key receives from queries that see every key.

    The mean shows how often a key is needed, the maximum how much it is needed at least once.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated probe queries, shape (B, H * G, Q, D).
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    scaling : float
        Factor on the logits, usually D ** -0.5.
    block : int, default=64
        Number of queries per head processed at once: memory is O(B H block T), not O(B H G Q T).

    Returns
    -------
    torch.Tensor
        float32, shape (B, H, T).
    """
    batch, heads, num_keys, _ = keys.shape
    rows = queries.unflatten(1, (heads, -1)).flatten(2, 3)
    total = torch.zeros(batch, heads, num_keys, dtype=torch.float32, device=keys.device)
    largest = torch.zeros_like(total)
    buffer = torch.empty(batch, heads, min(block, rows.shape[2]), num_keys, dtype=torch.float32, device=keys.device)
    for part in rows.split(block, dim=2):
        attention = attend(part, keys, scaling, buffer[:, :, : part.shape[2]])
        total += attention.sum(dim=2)
        largest = torch.maximum(largest, attention.amax(dim=2))
    return (total / rows.shape[2] * largest).sqrt()
