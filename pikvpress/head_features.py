"""What a router sees of an input: measurements on probe queries first, cheap statistics beside them.

Cheap statistics alone say next to nothing about which expert will do well on an input; measuring the experts does.

The features of a KV head, in order, for experts e = 1..E:

`error/<e>`
    log of the retained error of what expert e alone would keep at this budget, less the mean over the experts.
`missed/<e>`
    log(1 + share of the probes' attention that expert e would evict), less the mean over the experts.
`context_length`
    log2(number of keys) / 10.
`keep_share`
    log2(share of the keys that is kept).
`attention_entropy`
    Entropy of the probes' mean attention over the keys, divided by the log of their number: 1 = spread evenly.
`sink_mass`
    Share of the probes' attention on the first 4 keys.
`recent_mass`
    Share of the probes' attention on the last 64 keys.
`key_coherence`
    Length of the mean of the keys, each scaled to length 1: 1 = all point the same way.
`key_norm_spread`, `value_norm_spread`
    Standard deviation of the norms of the keys, or values, divided by their mean.

An expert that cannot score the input at hand has 0 for its two features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pikvpress.experts.layer_view import LayerView
from pikvpress.experts.probes import probe_queries
from pikvpress.kernels.key_geometry import key_geometry
from pikvpress.kernels.retained_error import measure

VERSION = "1"
STATISTICS = (
    "context_length",
    "keep_share",
    "attention_entropy",
    "sink_mass",
    "recent_mass",
    "key_coherence",
    "key_norm_spread",
    "value_norm_spread",
)
SPREAD_PROBES = 48
RECENT_PROBES = 16


class HeadFeatures(NamedTuple):
    """Features of every KV head, and the attention mass measured on the way.

    Attributes
    ----------
    values : torch.Tensor
        float32, shape (batch, kv_heads, features), in the order of `feature_names`.
    mass : torch.Tensor
        Share of the probes' attention per key, float32, shape (batch, kv_heads, keys).
    """

    values: torch.Tensor
    mass: torch.Tensor


def feature_names(experts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the head features for experts of these names."""
    return (*(f"error/{name}" for name in experts), *(f"missed/{name}" for name in experts), *STATISTICS)


def collect(
    view: LayerView,
    hidden_states: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    kept: torch.Tensor,
    available: Sequence[int],
    num_experts: int,
    kwargs: dict[str, Any],
) -> HeadFeatures:
    """Measure the features of one layer.

    Parameters
    ----------
    view : LayerView
        The attention layer.
    hidden_states : torch.Tensor
        Shape (batch, tokens, hidden); the probe queries are made from them.
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    kept : torch.Tensor
        What each available expert alone would keep, bool, shape (batch, kv_heads, len(available), keys).
    available : sequence of int
        Which of the experts these are.
    num_experts : int
        How many experts there are in all.
    kwargs : dict
        The layer's keyword arguments.
    """
    probes = probe_queries(view, hidden_states, keys, kwargs, SPREAD_PROBES, RECENT_PROBES)
    measured = measure(probes, keys, values, kept, view.scaling)
    shape = (*keys.shape[:2], num_experts)
    per_expert = []
    for value in (measured.error.clamp_min(1e-6).log(), measured.missed.clamp_min(0).log1p()):
        column = torch.zeros(shape, dtype=torch.float32, device=keys.device)
        column[..., list(available)] = value - value.mean(dim=-1, keepdim=True)
        per_expert.append(column)
    statistics = _statistics(keys, values, measured.mass, kept)
    return HeadFeatures(torch.cat([*per_expert, statistics], dim=-1), measured.mass)


def _statistics(keys: torch.Tensor, values: torch.Tensor, mass: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the features that are no expert's, shape (batch, kv_heads, len(STATISTICS))."""
    num_keys = keys.shape[2]
    log_keys = math.log(max(2, num_keys))
    geometry = key_geometry(keys, values)
    keep_share = kept.float().mean(dim=-1)[..., 0].clamp_min(1e-6)
    columns = [
        torch.full_like(keep_share, math.log2(num_keys) / 10),
        keep_share.log2(),
        -(mass * mass.clamp_min(1e-30).log()).sum(dim=-1) / log_keys,
        mass[..., :4].sum(dim=-1),
        mass[..., -64:].sum(dim=-1),
        torch.linalg.vector_norm(geometry.direction, dim=-1),
        _spread(geometry.key_norms),
        _spread(geometry.value_norms),
    ]
    return torch.stack(columns, dim=-1).float()


def _spread(norms: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation over the mean, (B, H) of (B, H, T)."""
    return norms.std(dim=-1, correction=0) / norms.mean(dim=-1).clamp_min(1e-12)
