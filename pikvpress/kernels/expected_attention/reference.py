"""The definition of expected attention, in plain torch."""

from __future__ import annotations

import torch

NUMBERS = 65536  # per head that are held in float32 at once


def query_moments(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of the queries of each head.

    These define the normal distribution from which ExpectedAttention (https://arxiv.org/abs/2510.00636) assumes queries
    to come. The covariance is divided by T, not T - 1.

    Parameters
    ----------
    queries : torch.Tensor
        Queries before rotation, shape (B, H * G, T, D), T >= 1.

    Returns
    -------
    mean : torch.Tensor
        float32 (float64 for float64 input), shape (B, H * G, D).
    covariance : torch.Tensor
        The same type, shape (B, H * G, D, D).

    Raises
    ------
    ValueError
        If there are no queries.
    """
    check_queries(queries)
    batch, heads, num_tokens, head_dim = queries.shape
    wide = torch.promote_types(queries.dtype, torch.float32)
    mean = queries.mean(dim=2, dtype=wide)
    products = torch.zeros(batch * heads, head_dim, head_dim, dtype=wide, device=queries.device)
    parts = queries.split(max(1, NUMBERS // head_dim), dim=2)
    buffer = torch.empty(parts[0].shape, dtype=wide, device=queries.device)  # allocating takes time on a CPU
    for part in parts:
        centred = torch.sub(part, mean.unsqueeze(2), out=buffer[:, :, : part.shape[2]]).flatten(0, 1)
        products.baddbmm_(centred.transpose(1, 2), centred)
    return mean, products.view(batch, heads, head_dim, head_dim) / num_tokens


def expected_attention(
    keys: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return the attention that each key would receive from normally distributed queries.

    A query q with mean μ and covariance Σ gives key k the weight E[exp(q·k s)] = exp(μ·k s + kᵀΣk s²/2). The weights of
    a query head are divided by their sum, and averaged over the query heads of a KV head (ExpectedAttention,
    https://arxiv.org/abs/2510.00636).

    Parameters
    ----------
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    mean : torch.Tensor
        Means of the rotated queries, shape (B, H * G, D).
    covariance : torch.Tensor, optional
        Covariances of the rotated queries, shape (B, H * G, D, D); without them, every query is the mean.
    scaling : float
        The factor s on the logits, usually D ** -0.5.

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, T); the sum over a head is 1.

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    check_moments(keys, mean, covariance)
    heads, num_keys, head_dim = keys.shape[1:]
    block = max(1, NUMBERS // head_dim)
    wide = torch.promote_types(keys.dtype, torch.float32)
    linear = mean.to(wide).unflatten(1, (heads, -1)) * scaling  # (B, H, G, D)
    square = None if covariance is None else covariance.to(wide).unflatten(1, (heads, -1)) * (scaling**2 / 2)
    logits = keys.new_empty(*linear.shape[:3], num_keys, dtype=wide)
    buffer = keys.new_empty(*keys.shape[:2], min(block, num_keys), head_dim, dtype=wide)
    for start in range(0, num_keys, block):
        key = keys[:, :, start : start + block].to(wide)
        part = linear @ key.transpose(2, 3)
        if square is not None:
            products = buffer[:, :, : key.shape[2]]
            for member in range(linear.shape[2]):
                part[:, :, member] += torch.matmul(key, square[:, :, member], out=products).mul_(key).sum(dim=-1)
        logits[..., start : start + block] = part
    return logits.softmax(dim=-1).mean(dim=2)


def check_queries(queries: torch.Tensor) -> None:
    """Raise a ``ValueError`` unless there are queries to compute moments of."""
    if queries.dim() != 4 or queries.shape[2] == 0:
        raise ValueError(f"queries are {tuple(queries.shape)}: pass (B, H * G, T, D) with at least one token")


def check_moments(keys: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor | None) -> None:
    """Raise a ``ValueError`` unless the moments belong to queries for these keys."""
    found = f"keys are {tuple(keys.shape)}, means {tuple(mean.shape)}"
    if keys.dim() != 4 or mean.dim() != 3 or mean.shape[::2] != keys.shape[::3]:
        raise ValueError(f"{found}: pass keys (B, H, T, D) and means (B, H * G, D)")
    if mean.shape[1] % max(1, keys.shape[1]) or mean.shape[1] < keys.shape[1]:
        raise ValueError(f"{found}: pass means for the same number of query heads for each KV head, at least one")
    if covariance is not None and covariance.shape != (*mean.shape, mean.shape[2]):
        raise ValueError(f"{found}, covariances {tuple(covariance.shape)}: pass covariances (B, H * G, D, D)")
