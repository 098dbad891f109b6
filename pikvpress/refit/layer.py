"""Refitting the values that one layer keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.experts import LayerInput
from pikvpress.refit.references import references
from pikvpress.refit.values import refit_values


@torch.no_grad()
def refit(
    layer: LayerInput, kept: torch.Tensor, codecs: Sequence[Codec] | None, bank: torch.Tensor | None
) -> torch.Tensor:
    """Return the layer's values, those of kept entries refitted to make up for removed entries and inexact keys.

    Values are fitted in closed form as in attention matching (https://arxiv.org/abs/2602.16284); the reference queries
    are not generated, but taken from the context and from calibration.

    Parameters
    ----------
    layer : LayerInput
        The layer.
    kept : torch.Tensor
        Entries that are kept, at least one per head, bool, shape (batch, kv_heads, keys).
    codecs : sequence of Codec, optional
        Codec of the keys of each KV head; None if they are stored unchanged.
    bank : torch.Tensor, optional
        Queries from calibration, see `references`.

    Returns
    -------
    torch.Tensor
        A copy, shape (batch, kv_heads, keys, head_dim), in the dtype of the values.
    """
    heads = layer.keys.shape[1]
    queries = references(layer, bank).unflatten(1, (heads, -1)).flatten(2, 3)  # (batch, kv_heads, queries, head_dim)
    keys, values, scaling = layer.keys.float(), layer.values.float(), layer.view.scaling
    wanted = scaled_dot_product_attention(queries, keys, values, scale=scaling)
    refitted = layer.values.clone()
    for row, head in [(row, head) for row in range(len(kept)) for head in range(heads)]:
        entries = kept[row, head].nonzero()[:, 0]
        codec = EXACT if codecs is None else codecs[head]
        if codec == EXACT and len(entries) == keys.shape[2]:
            continue  # nothing is missing
        left = codec.read_back(keys[row, head, entries], True)
        new = refit_values(queries[row, head], wanted[row, head], left, values[row, head, entries], scaling)
        refitted[row, head, entries] = new.to(refitted.dtype)
    return refitted
