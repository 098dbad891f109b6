"""Attention over the contents of a layer: compressed stretches, then its dense tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pikvpress import models
from pikvpress.cache import masks
from pikvpress.cache.scheduled import ScheduledLayer
from pikvpress.kernels.ragged_attention import attend, attend_and_sum, attend_capped
from pikvpress.ranks import shard_of


def read(
    module: models.Attention,
    query: torch.Tensor,
    layer: ScheduledLayer,
    mask: torch.Tensor | None,
    settings: Mapping[str, Any],
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
    settings : mapping of str to object
        What the model passes to attention functions: `scaling` of the logits, by default one over the square root of
        the head size; `softcap`, by which Gemma 2 bounds them; `s_aux`, the logits of GPT-OSS's attention sinks;
        `position_ids`, shape (batch, tokens).

    Returns
    -------
    torch.Tensor
        Shape (batch, tokens, heads, head_dim).
    """
    hidden = masks.hidden(mask, query.shape[2], layer.entries.new_length, query.device)
    scale = query.shape[3] ** -0.5 if settings.get("scaling") is None else settings["scaling"]
    cap = None if module.config._attn_implementation == "sdpa" else settings.get("softcap")  # sdpa has no bounds
    entries, keeper = layer.entries, layer.keeper
    recent = (entries.tail.keys, entries.tail.values, hidden[..., entries.compressed.decoded_length :], scale)
    if keeper is None:
        held = [(stretch.keys, stretch.values) for stretch in entries.compressed.stretches]
        if layer.part is not None:
            return _read_on_ranks(module, query, layer, settings, held, recent)
        output, log_sums = attend(query, held, *recent) if cap is None else attend_capped(query, held, *recent, cap)
        layer.pack_recent(hidden[:, :, -1])
        return _after_sinks(output, log_sums, settings.get("s_aux")).transpose(1, 2).contiguous()
    layer.refuse_to_schedule(module, query.shape[2], hidden[:, :, -1], settings.get("position_ids"))
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
    settings: Mapping[str, Any],
    held: list[tuple[Any, Any]],
    recent: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float],
) -> torch.Tensor:
    """Return the attention output over what all ranks hold; one of them attends to the recent entries."""
    keys, values, hidden, scaling = recent
    part, (batch, heads) = layer.part, keys.shape[:2]
    assert part is not None
    if settings.get("softcap") is not None or settings.get("s_aux") is not None:
        raise ValueError(
            "a ShardedPiKVCache cannot merge attention with bounded logits or attention sinks, as in Gemma 2 and "
            "GPT-OSS: use a PiKVCache"
        )
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


def _after_sinks(output: torch.Tensor, log_sums: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Return the output (batch, heads, tokens, head_dim) after sinks have taken their share of the attention.

    A sink is a logit per head that belongs to no entry, so it takes the share sigmoid(sink - log-sum-exp of the others)
    of every query's attention.
    """
    if sinks is None:
        return output
    left = torch.sigmoid(log_sums - sinks.to(log_sums.dtype)[:, None])
    return output * left.unsqueeze(-1).to(output.dtype)
