"""What keeping so many keys in so few bits would cost: error curves for budgets in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from pikvpress.cache.codecs import CODECS, GROUP, Codec
from pikvpress.calibration.collect import RATIOS, Record
from pikvpress.calibration.measure import divergence
from pikvpress.calibration.training import KEEP_SHARES, ROWS, Progress, blended_ranks
from pikvpress.kernels.packing import dequantise, quantise
from pikvpress.routers import Router

# Of keys and values, the dearest first; keys need as many bits as values or more.
PAIRS = (
    ("exact", "exact"),
    ("int8", "int8"),
    ("int8", "int4"),
    ("int4", "int4"),
    ("int4", "int3"),
    ("int4", "int2"),
    ("int3", "int3"),
    ("int3", "int2"),
    ("int2", "int2"),
)


@torch.no_grad()
def codec_curves(router: Router, records: Sequence[Record], layers: int, progress: Progress) -> torch.Tensor:
    """Return the mean predicted divergence of a router's selections, stored by each of `PAIRS`, over records.

    Keys and values are packed as a `PiKVCache` packs them, in groups of the context's own order.

    Returns
    -------
    torch.Tensor
        Shape (ratios, layers, kv_heads, len(PAIRS), len(KEEP_SHARES)), float32; NaN for layers that are not compressed.
    """
    shape = (len(RATIOS), layers, router.static.shape[1], len(PAIRS), len(KEEP_SHARES))
    curves = torch.full(shape, torch.nan)
    router.eval()
    for record in records:
        for index in record.layers:
            layer = record.layer(index, ROWS)
            num_keys = layer.ranks.shape[-1]
            counts = [max(1, round(share * num_keys)) for share in reversed(KEEP_SHARES)]
            orders = [
                blended_ranks(router, index, layer, ratio)[0].argsort(dim=-1, descending=True)
                for ratio in range(len(RATIOS))
            ]
            values = {name: _packed(layer.reading.values, CODECS[name], False) for name in {v for _, v in PAIRS}}
            readings = {
                name: record.layer(index, ROWS, partial(_packed, codec=CODECS[name], is_keys=True)).reading
                for name in {k for k, _ in PAIRS}
            }
            for number, (keys, value) in enumerate(PAIRS):
                reading = replace(readings[keys], values=values[value], output=layer.reading.output)
                for ratio, order in enumerate(orders):
                    measured = divergence(reading, order, counts).flip(-1) / len(records)
                    curves[ratio, index, :, number] = curves[ratio, index, :, number].nan_to_num(0) + measured
        progress("measuring codecs")
    return curves


def _packed(states: torch.Tensor, codec: Codec, is_keys: bool) -> torch.Tensor:
    """Return states (kv_heads, keys, head_dim) as they come out of a codec."""
    if codec.bits is None:
        return states
    return torch.stack(
        [dequantise(*quantise(head, codec.bits, GROUP, is_keys), GROUP, is_keys, head.dtype) for head in states]
    )
