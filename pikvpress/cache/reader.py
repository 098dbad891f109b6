"""Attention over the contents of a layer: compressed stretches, then its dense tail."""

from __future__ import annotations

import torch

from pikvpress.cache import masks
from pikvpress.cache.compressible import CompressibleLayer
from pikvpress.kernels.ragged_attention import attend


def read(
    query: torch.Tensor, layer: CompressibleLayer, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Return the attention output of queries, and pack entries that now fill a group.

    Parameters
    ----------
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
    held = [(stretch.keys, stretch.values) for stretch in layer.entries.compressed.stretches]
    hidden_in_tail = hidden[..., layer.entries.compressed.decoded_length :]
    output, _ = attend(query, held, layer.entries.tail.keys, layer.entries.tail.values, hidden_in_tail, scale)
    layer.pack_recent(hidden[:, :, -1])
    return output.transpose(1, 2).contiguous()
