"""The definition of the window scores, in plain torch."""

from __future__ import annotations

import torch


def observed_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the mean attention each key received from the last queries that could see it.

    With a = softmax(q kᵀ · scaling) under the causal mask, the score of key t is the sum of a[q, t] over the
    queries, divided by how many of them stand at or after t, then averaged over the queries of a KV head.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries of the last Q tokens, shape (B, H * G, Q, D).
    keys : torch.Tensor
        Rotated keys of all T tokens, shape (B, H, T, D), T >= Q.
    scaling : float
        Factor on the logits, usually D ** -0.5.

    Returns
    -------
    torch.Tensor
        float32, shape (B, H, T).
    """
    batch, heads, num_keys, _ = keys.shape
    window = queries.shape[2]
    position = torch.arange(num_keys, device=keys.device)
    seen_by = (num_keys - position).clamp(max=window)
    hidden = position > (num_keys - window + torch.arange(window, device=keys.device))[:, None]
    received = torch.zeros(batch, heads, num_keys, dtype=torch.float32, device=keys.device)
    per_head = queries.unflatten(1, (heads, -1))
    for member in range(per_head.shape[2]):  # one query head of each group at a time bounds the logits' memory
        logits = (per_head[:, :, member] @ keys.transpose(2, 3)).float() * scaling
        received += logits.masked_fill_(hidden, -torch.inf).softmax(dim=-1).sum(dim=2)
    return received / seen_by / per_head.shape[2]
