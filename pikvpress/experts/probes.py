"""Probe queries: queries of the context, moved to positions after it, as a substitute for future questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pikvpress import models
from pikvpress.experts.layer_view import LayerView


def probe_queries(
    view: LayerView,
    hidden_states: torch.Tensor,
    keys: torch.Tensor,
    kwargs: Mapping[str, Any],
    num_spread: int,
    num_recent: int,
) -> torch.Tensor:
    """Return queries of the context, rotated to the positions after it, shape (batch, heads, probes, head_dim).

    Parameters
    ----------
    view : LayerView
        The attention layer.
    hidden_states : torch.Tensor
        Shape (batch, tokens, hidden).
    keys : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    kwargs : mapping of str to object
        The layer's keyword arguments.
    num_spread, num_recent : int
        Numbers of queries to take, evenly spaced and from the end, without random numbers. Fewer if there are fewer
        hidden states.
    """
    length = hidden_states.shape[1]
    spread = max(0, length - num_recent)
    count = min(num_spread, spread)
    rows = torch.cat([torch.arange(count) * spread // max(1, count), torch.arange(spread, length)])
    queries = view.q_proj(hidden_states)[:, rows.to(hidden_states.device)]
    queries = queries.unflatten(-1, (-1, view.head_dim)).transpose(1, 2)
    return after_context(view, queries, keys, kwargs)


def after_context(
    view: LayerView, queries: torch.Tensor, keys: torch.Tensor, kwargs: Mapping[str, Any]
) -> torch.Tensor:
    """Rotate queries (batch, heads, n, head_dim) to the n positions after the context; arguments as above."""
    ahead = torch.arange(1, queries.shape[2] + 1, device=keys.device)
    last = kwargs["cache_position"][-1] if kwargs.get("cache_position") is not None else keys.shape[2] - 1
    cos, sin = view.rotary_emb(queries, (last + ahead).unsqueeze(0))
    return models.rotate(queries, cos, sin)
