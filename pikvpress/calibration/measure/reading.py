"""How futures read one layer of a context: where they attend, and what their predictions depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FutureReading:
    """How the queries of one or several futures read one layer of a context. No batch dimension.

    The rows of each KV head are the queries of its group, for all tokens and futures.

    Parameters
    ----------
    attention : torch.Tensor
        Attention to the context's keys, shape (kv_heads, rows, keys).
    values : torch.Tensor
        Values of the context, shape (kv_heads, keys, head_dim).
    other_mass : torch.Tensor
        Attention to the future's own tokens, shape (kv_heads, rows).
    other_output : torch.Tensor
        Contribution of the future's own tokens to the output, shape (kv_heads, rows, head_dim).
    output : torch.Tensor
        Output from all tokens, shape (kv_heads, rows, head_dim).
    gradients : torch.Tensor
        As in `teacher.LayerFuture`, shape (samples, kv_heads, rows, head_dim).
    """

    attention: torch.Tensor
    values: torch.Tensor
    other_mass: torch.Tensor
    other_output: torch.Tensor
    output: torch.Tensor
    gradients: torch.Tensor


def read(
    keys: torch.Tensor,
    values: torch.Tensor,
    futures: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
    scaling: float,
    most_rows: int | None = None,
) -> FutureReading:
    """Attend from futures to a context.

    Parameters
    ----------
    keys, values : torch.Tensor
        Keys and values of the context, shape (kv_heads, keys, head_dim).
    futures : sequence of tuple of torch.Tensor
        Queries (heads, tokens, head_dim), keys and values (kv_heads, tokens, head_dim) and gradients
        (samples, heads, tokens, head_dim) of each.
    scaling : float
        Factor on the logits.
    most_rows : int, optional
        Maximum number of rows per KV head: those with the largest gradients, which affect predictions most.
    """
    heads, num_keys = keys.shape[0], keys.shape[1]
    queries = torch.cat([future[0].unflatten(0, (heads, -1)).flatten(1, 2) for future in futures], dim=1)
    own_keys, own_values = (torch.cat([future[i] for future in futures], dim=1) for i in (1, 2))
    gradients = torch.cat([future[3].unflatten(1, (heads, -1)).flatten(2, 3) for future in futures], dim=2)
    hidden = _hidden(futures, heads).expand(heads, -1, -1)
    if most_rows is not None and queries.shape[1] > most_rows:
        rows = gradients.square().sum(dim=(0, 3)).topk(most_rows, dim=-1).indices.unsqueeze(-1)
        queries = queries.gather(1, rows.expand(-1, -1, queries.shape[2]))
        hidden = hidden.gather(1, rows.expand(-1, -1, hidden.shape[2]))
        gradients = gradients.gather(2, rows.expand(len(gradients), -1, -1, gradients.shape[3]))
    own = (queries @ own_keys.transpose(1, 2) * scaling).masked_fill(hidden, -torch.inf)
    weights = torch.cat([queries @ keys.transpose(1, 2) * scaling, own], dim=-1).softmax(dim=-1)
    attention, on_own = weights[..., :num_keys], weights[..., num_keys:]
    other = on_own @ own_values
    return FutureReading(attention, values, on_own.sum(dim=-1), other, other + attention @ values, gradients)


def _hidden(futures: Sequence[tuple[torch.Tensor, ...]], heads: int) -> torch.Tensor:
    """Return which tokens of all futures a row must not see: later ones and other futures, (rows, tokens)."""
    blocks = []
    for queries, *_ in futures:
        later = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool, device=queries.device).triu(1)
        blocks.append(~later.repeat(queries.shape[0] // heads, 1))
    return ~torch.block_diag(*blocks)
