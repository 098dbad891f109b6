"""Checks of arguments that several operations share."""

from __future__ import annotations

import torch


def check_self_attention(queries: torch.Tensor, keys: torch.Tensor) -> None:
    """Check that queries and keys belong to the same tokens.

    Parameters
    ----------
    queries : torch.Tensor
        Shape (B, H * G, T, D).
    keys : torch.Tensor
        Shape (B, H, T, D).

    Raises
    ------
    ValueError
        If their shapes or types do not match.
    """
    found = f"queries are {tuple(queries.shape)} and keys {tuple(keys.shape)}"
    if queries.dim() != 4 or keys.dim() != 4:
        raise ValueError(f"{found}: pass queries (B, H * G, T, D) and keys (B, H, T, D)")
    if queries.shape[2] != keys.shape[2]:
        raise ValueError(
            f"{found}: pass the queries of all {keys.shape[2]} tokens; for only the last ones, use "
            "received_attention from pikvpress.kernels.window_scores"
        )
    if queries.shape[0] != keys.shape[0] or queries.shape[3] != keys.shape[3]:
        raise ValueError(f"{found}: pass both with the same batch and head size")
    if queries.shape[1] % max(1, keys.shape[1]) or queries.shape[1] < keys.shape[1]:
        raise ValueError(f"{found}: pass the same number of query heads for each KV head, at least one")
    if queries.dtype != keys.dtype:
        raise ValueError(f"queries are {queries.dtype} and keys {keys.dtype}: convert one to the other's type")
