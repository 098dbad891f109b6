"""The definition of the geometry of keys, in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch

SHORTEST_KEY = 1e-12  # the smallest length by which a key is divided
SHORTEST = 1e-8  # the same for cosines
BLOCK = 4096  # tokens held in float32 at once


class KeyGeometry(NamedTuple):
    """The lengths of keys and values, and the mean direction of the keys.

    Attributes
    ----------
    key_norms, value_norms : torch.Tensor
        Length of each key and value, shape (B, H, T).
    direction : torch.Tensor
        Mean of the keys, each scaled to length 1, shape (B, H, D); 0 if there are none.
    """

    key_norms: torch.Tensor
    value_norms: torch.Tensor
    direction: torch.Tensor


def key_geometry(keys: torch.Tensor, values: torch.Tensor) -> KeyGeometry:
    """Return the lengths of keys and values and the mean direction of the keys.

    Parameters
    ----------
    keys, values : torch.Tensor
        Shape (B, H, T, D).

    Returns
    -------
    KeyGeometry
        All float32 (float64 for float64 input).

    Raises
    ------
    ValueError
        If the shapes of keys and values differ.
    """
    check_same_shape(keys, values)
    key_norms, direction = _directions(keys)
    wide = torch.promote_types(values.dtype, torch.float32)
    return KeyGeometry(key_norms, torch.linalg.vector_norm(values, dim=-1, dtype=wide), direction)


def mean_direction(keys: torch.Tensor) -> torch.Tensor:
    """Return the mean of the keys, each scaled to length 1, which is the anchor of KeyDiff (https://arxiv.org/abs/2504.15364).

    Parameters
    ----------
    keys : torch.Tensor
        Shape (B, H, T, D).

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, D); 0 if there are none.
    """
    return _directions(keys)[1]


def cosines(keys: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the cosine of the angle between each key and a direction.

    Parameters
    ----------
    keys : torch.Tensor
        Shape (B, H, T, D).
    direction : torch.Tensor
        One vector per head, of any length, shape (B, H, D).

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, T).

    Raises
    ------
    ValueError
        If there is not exactly one direction for each head.
    """
    check_direction(keys, direction)
    wide = torch.promote_types(keys.dtype, torch.float32)
    unit = unit_length(direction.to(wide)).unsqueeze(2)
    found = []
    for part in keys.split(BLOCK, dim=2):
        key = part.to(wide)
        along = (unit @ key.transpose(2, 3)).squeeze(2)
        found.append(along / torch.linalg.vector_norm(key, dim=-1).clamp_min(SHORTEST))
    return torch.cat(found, dim=2)


def check_same_shape(keys: torch.Tensor, values: torch.Tensor) -> None:
    """Raise a ``ValueError`` unless each key has a value of the same size."""
    if keys.dim() != 4 or keys.shape != values.shape:
        raise ValueError(f"keys are {tuple(keys.shape)} and values {tuple(values.shape)}: pass both (B, H, T, D)")


def check_direction(keys: torch.Tensor, direction: torch.Tensor) -> None:
    """Raise a ``ValueError`` unless there is one direction for each head."""
    if keys.dim() != 4 or direction.shape != (*keys.shape[:2], keys.shape[3]):
        found = f"keys are {tuple(keys.shape)} and directions {tuple(direction.shape)}"
        raise ValueError(f"{found}: pass keys (B, H, T, D) and directions (B, H, D)")


def unit_length(direction: torch.Tensor) -> torch.Tensor:
    """Return vectors scaled to length 1, unless they are 0."""
    return direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True).clamp_min(SHORTEST)


def _directions(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norms of keys and their mean direction."""
    batch, heads, num_keys, head_dim = keys.shape
    wide = torch.promote_types(keys.dtype, torch.float32)
    total = torch.zeros(batch, heads, 1, head_dim, dtype=wide, device=keys.device)
    norms = []
    for part in keys.split(BLOCK, dim=2):
        key = part.to(wide)
        norms.append(torch.linalg.vector_norm(key, dim=-1))
        total += norms[-1].clamp_min(SHORTEST_KEY).reciprocal().unsqueeze(2) @ key
    return torch.cat(norms, dim=2), total.squeeze(2) / max(1, num_keys)
