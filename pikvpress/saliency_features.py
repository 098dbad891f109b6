"""The features from which the saliency of keys is estimated, and their products with fitted weights."""

from __future__ import annotations

from typing import Any

import torch

from pikvpress import models

VERSION = "1"
SINKS = 4
BLOCK = 2**14  # number of tokens whose features are in memory at a time


def num_features(head_dim: int) -> int:
    """Return the number of features per key, without its hidden state."""
    return 2 * head_dim + 6


def positions_of(
    module: models.Attention, keys: torch.Tensor, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines of the rotation of keys at consecutive positions up to the last token.

    Those of a model that counts images along three axes are the given ones, which the keys of the context have.
    """
    count = keys.shape[2]
    along_axes = getattr(module, "along_axes", None)  # what an expert is shown instead of a layer says so itself
    if along_axes is None:
        along_axes = models.counts_places(module)
    given = kwargs.get("position_embeddings") if along_axes else None
    if given is not None and given[0].shape[1] == count:
        return given
    last = kwargs["cache_position"][-1] if kwargs.get("cache_position") is not None else count - 1
    places = torch.arange(1 - count, 1, device=keys.device) + last
    cos, sin = models.rotary_embedding(module, keys, places.unsqueeze(0))
    return cos, sin


def saliency_features(keys: torch.Tensor, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return the features from which the saliency of keys is estimated.

    In order: the key before rotation and the value, each divided by the head's mean norm; the logarithms of their
    norms; the position as a share of the context, the logarithms of the shares before and after it, and whether it is
    one of the first 4.

    Parameters
    ----------
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    cos, sin : torch.Tensor
        Cosines and sines of the keys' rotation, shape (1, keys, rotary_dim).

    Returns
    -------
    torch.Tensor
        float32, shape (batch, kv_heads, keys, 2 head_dim + 6).
    """
    key_lengths, value_lengths = (_lengths(states) for states in (keys, values))
    before = models.rotate(keys.float(), cos.float(), -sin.float())
    parts = [
        before / key_lengths.mean(dim=2, keepdim=True),
        values / value_lengths.mean(dim=2, keepdim=True),
        key_lengths.log(),
        value_lengths.log(),
        _places(_index(keys), keys.shape[2]).expand(*keys.shape[:2], -1, -1),
    ]
    return torch.cat(parts, dim=-1)


def saliency_scores(
    keys: torch.Tensor, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return ``saliency_features(keys, values, cos, sin) @ weights`` without the features.

    Instead of keys, the weights are rotated, to each position.

    Parameters
    ----------
    keys, values, cos, sin : torch.Tensor
        As in `saliency_features`.
    weights : torch.Tensor
        float32, shape (kv_heads, 2 head_dim + 6).

    Returns
    -------
    torch.Tensor
        float32, shape (batch, kv_heads, keys).
    """
    norms = _lengths(keys), _lengths(values)
    means = torch.stack([lengths.mean(dim=(2, 3)) for lengths in norms], dim=-1)
    of_states = _state_scores(keys, values, cos, sin, weights, means)
    lengths = torch.cat(norms, dim=-1).log()
    *_, of_lengths, of_places = (part.to(lengths.dtype) for part in _split(weights, keys.shape[3]))
    places = _places(_index(keys), keys.shape[2]).to(lengths.dtype)
    return of_states + (lengths @ of_lengths + places @ of_places).squeeze(-1)


def content_scores(
    keys: torch.Tensor,
    values: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    totals: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the part of `saliency_scores` that does not depend on positions, for entries that arrive in pieces.

    The head's mean norms, by which keys and values are divided, are then those of the entries so far.

    Parameters
    ----------
    keys, values : torch.Tensor
        Of some entries, as in `saliency_features`.
    rotation : pair of torch.Tensor
        Cosines and sines of the keys' rotation, shape (1, entries, rotary_dim).
    weights : torch.Tensor
        float32, shape (kv_heads, 2 head_dim + 6).
    totals : torch.Tensor, optional
        What was returned for the entries before these.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Scores, float32 (float64 of float64), shape (batch, kv_heads, entries), and new totals: the sums of norms of
        keys and of values, and the number of entries, shape (batch, kv_heads, 3).
    """
    lengths = torch.cat([_lengths(keys), _lengths(values)], dim=-1)
    added = torch.cat([lengths.sum(dim=2), torch.full_like(lengths[:, :, 0, :1], keys.shape[2])], dim=-1)
    totals = added if totals is None else totals + added
    of_states = _state_scores(keys, values, *rotation, weights, totals[..., :2] / totals[..., 2:])
    of_lengths = _split(weights, keys.shape[3])[2]
    return of_states + (lengths.log() @ of_lengths.to(lengths.dtype)).squeeze(-1), totals


def place_scores(places: torch.Tensor, count: int, weights: torch.Tensor) -> torch.Tensor:
    """Return the part of `saliency_scores` that depends on positions.

    Parameters
    ----------
    places : torch.Tensor
        Position of each entry, shape (batch, kv_heads, entries).
    count : int
        Length of the context.
    weights : torch.Tensor
        float32, shape (kv_heads, 2 head_dim + 6).

    Returns
    -------
    torch.Tensor
        float32, shape (batch, kv_heads, entries).
    """
    return (_places(places, count) @ weights[:, -4:].unsqueeze(-1)).squeeze(-1)


def _split(weights: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
    """Return the weights of keys, values, lengths and places, each of shape (kv_heads, features, 1)."""
    return weights.unsqueeze(-1).split([dim, dim, 2, 4], dim=1)


def _state_scores(
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: torch.Tensor,
    means: torch.Tensor,
) -> torch.Tensor:
    """Return the products of keys and values with their weights, divided by the mean norms, (batch, kv_heads, 2)."""
    dim, size = keys.shape[3], cos.shape[-1]
    wide = torch.promote_types(keys.dtype, torch.float32)
    of_keys, of_values = (part.to(wide) for part in _split(weights, dim)[:2])
    first, second = of_keys[:, :size].transpose(1, 2).chunk(2, dim=-1)  # (kv_heads, 1, size / 2)
    found = []
    for start in range(0, keys.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        (cos_1, cos_2), (sin_1, sin_2) = (part[0, rows].to(wide).chunk(2, dim=-1) for part in (cos, sin))
        block = keys[:, :, rows].to(wide)
        on_keys = torch.linalg.vecdot(block[..., : size // 2], torch.addcmul(cos_1 * first, sin_2, second, value=-1))
        on_keys += torch.linalg.vecdot(block[..., size // 2 : size], torch.addcmul(sin_1 * first, cos_2, second))
        if size < dim:  # a partial rotation
            on_keys += (block[..., size:] @ of_keys[:, size:]).squeeze(-1)
        on_values = (values[:, :, rows].to(wide) @ of_values).squeeze(-1)
        found.append(on_keys / means[..., :1] + on_values / means[..., 1:])
    return torch.cat(found, dim=-1)


def hidden_features(hidden_states: torch.Tensor) -> torch.Tensor:
    """Return hidden states (..., hidden) divided by their root mean square, float32."""
    return hidden_states.float() * _inverse_rms(hidden_states)


def hidden_scores(hidden_states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``hidden_features(hidden_states) @ weights`` for weights of every head.

    Parameters
    ----------
    hidden_states : torch.Tensor
        Shape (batch, tokens, hidden).
    weights : torch.Tensor
        float32, shape (kv_heads, hidden).

    Returns
    -------
    torch.Tensor
        float32, shape (batch, kv_heads, tokens).
    """
    blocks = hidden_states.split(BLOCK, dim=1)
    return torch.cat([(block.float() @ weights.T * _inverse_rms(block)).mT for block in blocks], dim=-1)


def _inverse_rms(states: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(states.dtype, torch.float32)
    norms = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=wide).float()
    return states.shape[-1] ** 0.5 / norms.clamp_min(1e-12)


def _lengths(states: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(states.dtype, torch.float32)
    return torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=wide).clamp_min(1e-12)


def _index(keys: torch.Tensor) -> torch.Tensor:
    return torch.arange(keys.shape[2], device=keys.device)


def _places(place: torch.Tensor, count: int) -> torch.Tensor:
    """Return the features of positions, float32, shape (..., 4)."""
    place = place.float()
    columns = (place / count, ((count - place) / count).log(), ((place + 1) / count).log(), (place < SINKS).float())
    return torch.stack(columns, dim=-1)
