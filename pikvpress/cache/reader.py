"""Attention over the contents of a layer: compressed stretches, then its dense tail."""

from __future__ import annotations

from typing import Any

import torch

from pikvpress import models
from pikvpress.cache import masks
from pikvpress.cache.scheduled import ScheduledLayer
from pikvpress.kernels.ragged_attention import attend, attend_and_sum
from pikvpress.ranks import shard_of


def read(
    module: models.Attention,
    query: torch.Tensor,
    layer: ScheduledLayer,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Return the attention output of queries, and pack or drop entries that now leave the recent window.

    Parameters
    ----------
    module : Attention
        The module that reads.
    query : torch.Tensor
        Queries of the layer's latest entries, shape (batch, heads, tokens, head_dim).
    layer : PiKVLayer
        A layer with compressed entries.
    mask : torch.Tensor, optional
        Mask of the model.
    scaling : float, optional
        Scaling of the scores; by default one over the square root of the head size.

    Returns
    -------
    torch.Tensor
        Shape (batch, tokens, heads, head_dim).
    """
    hidden = masks.hidden(mask, query.shape[2], layer.entries.new_length, query.device)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    entries, keeper = layer.entries, layer.keeper
    recent = (entries.tail.keys, entries.tail.values, hidden[..., entries.compressed.decoded_length :], scale)
    if keeper is None:
        held = [(stretch.keys, stretch.values) for stretch in entries.compressed.stretches]
        if layer.part is not None:
            return _read_on_ranks(module, query, layer, held, *recent)
        output, _ = attend(query, held, *recent)
        layer.pack_recent(hidden[:, :, -1])
        return output.transpose(1, 2).contiguous()
    layer.refuse_to_schedule(module, query.shape[2], hidden[:, :, -1])
    held, attention = keeper.held_for(query, entries), None
    if keeper.watches:
        output, _, attention = attend_and_sum(query, held, *recent)
    else:
        output, _ = attend(query, held, *recent)
    layer.entries = keeper.after_reading(entries, attention, query.shape[2])
    return output.transpose(1, 2).contiguous()


def _read_on_ranks(
    module: models.Attention,
    query: torch.Tensor,
    layer: ScheduledLayer,
    held: list[tuple[Any, Any]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return the attention output over what all ranks hold; one of them attends to the recent entries."""
    part, (batch, heads) = layer.part, keys.shape[:2]
    assert part is not None
    if not shard_of(module).is_whole:
        raise ValueError(
            "a ShardedPiKVCache splits the entries of a model that every rank has as a whole, but this model is split "
            "over ranks: use a PiKVCache"
        )
    empty = torch.zeros(batch, heads, dtype=torch.bool, device=query.device)
    if not part.holds_recent(module.layer_idx):
        hidden = torch.ones_like(hidden)
        counts = layer.entries.compressed.counts(batch * heads)
        empty = torch.tensor(counts, device=query.device).view(batch, heads) == 0
    output, log_sums = attend(query, held, keys, values, hidden, scaling)
    return part.merged(output, log_sums, empty).transpose(1, 2).contiguous()
