"""The definition of the retained error, streamed over blocks of keys."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Measurement(NamedTuple):
    """What probe queries reveal about keys and selections of keys.

    Attributes
    ----------
    error : torch.Tensor
        Retained error: the mean over the probe queries of ‖o_kept − o‖ / ‖o‖, where o is the attention output over all
        keys and o_kept that over the kept keys, renormalised; shape (B, H, E).
    missed : torch.Tensor
        Share of the attention that falls on keys that are not kept, averaged over the probe queries, shape (B, H, E).
    mass : torch.Tensor
        Attention that each key receives, averaged over the probe queries, shape (B, H, T); rows sum to 1.
    """

    error: torch.Tensor
    missed: torch.Tensor
    mass: torch.Tensor


def measure(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    kept: torch.Tensor,
    scaling: float,
    block: int = 16384,
) -> Measurement:
    """Measure the retained error of several selections of keys for probe queries that see every key.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated probe queries, shape (B, H * G, Q, D).
    keys, values : torch.Tensor
        Shape (B, H, T, D).
    kept : torch.Tensor
        Whether each selection keeps a key, bool, shape (B, H, E, T).
    scaling : float
        Factor on the logits, usually D ** -0.5.
    block : int, default=16384
        Number of keys processed at once: memory is O(B H G Q block), not O(B H G Q T).

    Returns
    -------
    Measurement
        All float32.
    """
    heads, num_keys, size = keys.shape[1], keys.shape[2], values.shape[3]
    rows = queries.unflatten(1, (heads, -1)).flatten(2, 3)  # (B, H, G * Q, D)
    starts = range(0, num_keys, block)

    def logits(start: int) -> torch.Tensor:
        return (rows @ keys[:, :, start : start + block].transpose(2, 3)).float() * scaling

    # With several blocks, attention is computed twice, first for the softmax's denominator; a single block is kept.
    only = logits(0).softmax(dim=-1) if len(starts) == 1 else None
    if only is None:
        log_total = torch.stack([logits(start).logsumexp(dim=-1) for start in starts]).logsumexp(dim=0).unsqueeze(-1)
    output: torch.Tensor | float = 0.0
    partial: torch.Tensor | float = 0.0
    held: torch.Tensor | float = 0.0
    masses = []
    for start in starts:
        attention = (logits(start) - log_total).exp() if only is None else only
        mask = kept[..., start : start + block].float()
        value = values[:, :, start : start + block].float()
        masked = (mask.unsqueeze(-1) * value.unsqueeze(2)).transpose(2, 3).flatten(3)  # (B, H, block, E * D)
        output = output + attention @ value
        partial = partial + attention @ masked
        held = held + attention @ mask.transpose(2, 3)
        masses.append(attention.mean(dim=2))
    assert isinstance(partial, torch.Tensor) and isinstance(output, torch.Tensor) and isinstance(held, torch.Tensor)
    kept_output = partial.unflatten(-1, (-1, size)) / held.clamp_min(1e-12).unsqueeze(-1)  # (B, H, G * Q, E, D)
    full = output.unsqueeze(3)
    error = (kept_output - full).norm(dim=-1) / full.norm(dim=-1).clamp_min(1e-12)
    return Measurement(error.mean(dim=2), 1 - held.mean(dim=2), torch.cat(masses, dim=-1))
