"""The definition of window scores, in plain torch."""

from __future__ import annotations

import torch

from pikvpress.kernels.attend import attend


def received_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the attention that each key receives from the last queries.

    With a = softmax(q kᵀ · scaling) under the causal mask, key t receives the sum of a[q, t] over the queries, averaged
    over the query heads of its KV head (SnapKV, https://arxiv.org/abs/2404.14469; H2O, https://arxiv.org/abs/2306.14048).

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
        float32 (float64 for float64 input), shape (B, H, T); the sum over a head is Q.
    """
    batch, heads, num_keys, _ = keys.shape
    window = queries.shape[2]
    later = torch.ones(window, window, dtype=torch.bool, device=keys.device).triu(1)  # all keys before are seen
    wide = torch.promote_types(keys.dtype, torch.float32)
    received = torch.zeros(batch, heads, num_keys, dtype=wide, device=keys.device)
    per_head = queries.unflatten(1, (heads, -1))
    attention = torch.empty(batch, heads, window, num_keys, dtype=wide, device=keys.device)
    for member in range(per_head.shape[2]):  # one query head of each group at a time, to limit memory
        received += attend(per_head[:, :, member], keys, scaling, attention, later).sum(dim=2)
    return received / per_head.shape[2]
