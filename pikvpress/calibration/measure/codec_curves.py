"""The cost of keeping a number of keys in a number of bits: error curves for budgets in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import CODECS
from pikvpress.calibration.measure.cost import divergence
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.measure.selection import blended_ranks
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router


@torch.no_grad()
def codec_curves(router: Router, records: Sequence[Record], recipe: Recipe, progress: Progress) -> torch.Tensor:
    """Return the mean predicted divergence of a router's selections, stored in each pair of codecs, over records.

    Keys and values are packed as in a `PiKVCache`, in groups in the order of the context.

    Returns
    -------
    torch.Tensor
        Shape (ratios, layers, kv_heads, pairs, keep shares), float32; NaN for layers that are not compressed.
    """
    pairs, ratios = recipe.codec_pairs, len(recipe.ratios)
    shape = (ratios, *router.static.shape[:2], len(pairs), len(recipe.keep_shares))
    curves = torch.full(shape, torch.nan)
    router.eval()
    for record in records:
        for index in record.layers:
            layer = record.layer(index, recipe.rows)
            counts = [max(1, round(share * layer.num_keys)) for share in reversed(recipe.keep_shares)]
            orders = [
                blended_ranks(router, index, layer.seen, ratio)[0].argsort(dim=-1, descending=True)
                for ratio in range(ratios)
            ]
            values = {name: _packed(layer.reading.values, CODECS[name], False) for name in {v for _, v in pairs}}
            readings = {
                name: record.layer(index, recipe.rows, partial(_packed, codec=CODECS[name], is_keys=True)).reading
                for name in {k for k, _ in pairs}
            }
            for number, (keys, value) in enumerate(pairs):
                reading = replace(readings[keys], values=values[value], output=layer.reading.output)
                for ratio, order in enumerate(orders):
                    measured = divergence(reading, order, counts).flip(-1) / len(records)
                    curves[ratio, index, :, number] = curves[ratio, index, :, number].nan_to_num(0) + measured
        progress("measuring codecs")
    return curves


def _packed(states: torch.Tensor, codec: Codec, is_keys: bool) -> torch.Tensor:
    """Return states (kv_heads, keys, head_dim) after encoding and decoding."""
    return torch.stack([codec.read_back(head, is_keys) for head in states])
