"""The entries of a cache's layer as ordinary tensors, however it stores them."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from pikvpress.cache.layer import PiKVLayer


def decoded(layer: PiKVLayer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the keys and values of a layer with one row, heads padded with zeros to the longest of them.

    Entries that came after the compressed context are not returned.

    Parameters
    ----------
    layer : PiKVLayer
        A layer of a settled `PiKVCache`, which is not changed.

    Returns
    -------
    keys, values : torch.Tensor
        Shape (1, kv_heads, entries, head_dim).
    missing : torch.Tensor or None
        Which of these are padding, bool, shape (kv_heads, entries); None if the layer is not compressed.
    """
    if not layer.entries.are_compressed:
        return layer.keys, layer.values, None
    stretches, heads = layer.entries.compressed.stretches, range(len(layer.counts()[0]))
    keys, values = (
        [torch.cat([getattr(part, side).part(head) for part in stretches]) for head in heads]
        for side in ("keys", "values")
    )
    counts = torch.tensor([len(rows) for rows in keys], device=keys[0].device)
    filled = [pad_sequence(rows, batch_first=True).unsqueeze(0) for rows in (keys, values)]
    return filled[0], filled[1], torch.arange(filled[0].shape[2], device=counts.device) >= counts[:, None]
