"""Measurement of the head features of one layer, which `pikvpress.routers.feature_names` lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pikvpress.experts.layer_input import LayerInput
from pikvpress.experts.probes import probe_queries
from pikvpress.kernels.key_geometry import key_geometry
from pikvpress.kernels.retained_error import measure

SPREAD_PROBES = 48
RECENT_PROBES = 16


class HeadFeatures(NamedTuple):
    """Features of every KV head, and the attention mass, which is measured in the same pass.

    Attributes
    ----------
    values : torch.Tensor
        float32, shape (batch, kv_heads, features), in the order of `feature_names`.
    mass : torch.Tensor
        Share of the probes' attention per key, float32, shape (batch, kv_heads, keys).
    """

    values: torch.Tensor
    mass: torch.Tensor


def collect(layer: LayerInput, kept: torch.Tensor, available: Sequence[int], num_experts: int) -> HeadFeatures:
    """Measure the features of one layer.

    Parameters
    ----------
    layer : LayerInput
        Input of the layer; the probe queries are computed from its hidden states.
    kept : torch.Tensor
        Mask of what each available expert alone would keep, bool, shape (batch, kv_heads, len(available), keys).
    available : sequence of int
        Indices of these experts.
    num_experts : int
        Total number of experts.
    """
    view, keys, values = layer.view, layer.keys, layer.values
    probes = probe_queries(view, layer.hidden_states, keys, layer.kwargs, SPREAD_PROBES, RECENT_PROBES)
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
    """Return the features that do not belong to an expert, shape (batch, kv_heads, len(STATISTICS))."""
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
    """Return the standard deviation divided by the mean, from shape (B, H, T) to (B, H)."""
    return norms.std(dim=-1, correction=0) / norms.mean(dim=-1).clamp_min(1e-12)
