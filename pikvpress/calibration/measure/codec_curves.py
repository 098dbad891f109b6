"""The cost of keeping a number of keys in a number of bits, with refitted values: error curves for budgets in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import CODECS, EXACT
from pikvpress.calibration.measure.cost import cost
from pikvpress.calibration.measure.reading import FutureReading
from pikvpress.calibration.measure.record import LayerRecord, Record
from pikvpress.calibration.measure.selection import blended_ranks
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.refit import refit_values
from pikvpress.routers import Router


@torch.no_grad()
def codec_curves(
    model: PreTrainedModel,
    router: Router,
    records: Sequence[Record],
    banks: Sequence[torch.Tensor],
    recipe: Recipe,
    progress: Progress,
) -> torch.Tensor:
    """Return the mean predicted divergence of a router's selections, stored in each pair of codecs, over records.

    Keys are packed as in a `PiKVCache`, in groups in the order of the context. Values are refitted, as presses do with
    fitted budgets, then packed.

    Parameters
    ----------
    model : PreTrainedModel
        The model that the records belong to.
    router : Router
        Ranks the keys.
    records : sequence of Record
        Measured situations that experts have examined.
    banks : sequence of torch.Tensor
        Queries to refit values with, for each record, as `choose_queries` returns them; they must not come from the
        record itself, since presses meet contexts that calibration has not seen.
    recipe : Recipe
        Defines codecs, shares and ratios.
    progress : callable
        Called after every record.

    Returns
    -------
    torch.Tensor
        Shape (ratios, layers, kv_heads, pairs, keep shares), float32; NaN for layers that are not compressed.
    """
    shape = (len(recipe.ratios), *router.static.shape[:2], len(recipe.codec_pairs), len(recipe.keep_shares))
    curves = torch.full(shape, torch.nan)
    router.eval()
    with models.rotary_at_hand(model):
        for record, bank in zip(records, banks, strict=True):
            for index in record.layers:
                stored = _StoredLayer.of(model, record, index, bank[index], recipe)
                known: list[tuple[torch.Tensor, torch.Tensor]] = []
                for ratio in range(len(recipe.ratios)):
                    ranks = blended_ranks(router, index, stored.layer.seen, ratio)[0]
                    order = ranks.argsort(dim=-1, descending=True)
                    costs = next((found for other, found in known if torch.equal(order, other)), None)
                    if costs is None:
                        costs = stored.costs(order, recipe)
                        known.append((order, costs))
                    curves[ratio, index] = curves[ratio, index].nan_to_num(0) + costs / len(records)
            progress("measuring codecs")
    return curves


@dataclass(frozen=True)
class _StoredLayer:
    """A layer of a record, its keys in every codec, and what refitted values should give."""

    layer: LayerRecord
    keys: dict[str, torch.Tensor]  # by codec, as they are read, (kv_heads, keys, head_dim)
    readings: dict[str, FutureReading]  # by codec of the keys
    queries: torch.Tensor  # reference queries, (kv_heads, queries, head_dim)
    wanted: torch.Tensor  # their attention output
    scaling: float

    @classmethod
    def of(cls, model: PreTrainedModel, record: Record, index: int, bank: torch.Tensor, recipe: Recipe) -> _StoredLayer:
        layer, scaling = record.layer(index, recipe.rows), record.scaling(index)
        names = dict.fromkeys(keys for keys, _ in recipe.codec_pairs)
        keys = {name: _packed(layer.keys, CODECS[name], True) for name in names}
        readings = {}
        for name in names:
            reading = record.layer(index, recipe.rows, partial(_packed, codec=CODECS[name], is_keys=True)).reading
            readings[name] = replace(reading, output=layer.reading.output)
        moved = _after(models.attention_layers(model)[index], bank, layer.num_keys)
        queries = torch.cat([record.probes(index), moved], dim=1).unflatten(0, (len(layer.keys), -1)).flatten(1, 2)
        wanted = scaled_dot_product_attention(queries, layer.keys, layer.reading.values, scale=scaling)
        return cls(layer, keys, readings, queries, wanted, scaling)

    def costs(self, order: torch.Tensor, recipe: Recipe) -> torch.Tensor:
        """Return the cost of keeping the first keys of an order, shape (kv_heads, pairs, keep shares)."""
        counts = [max(1, round(share * self.layer.num_keys)) for share in recipe.keep_shares]
        found = torch.empty(len(order), len(recipe.codec_pairs), len(counts))
        for place, count in enumerate(counts):
            kept = order[:, :count].sort(dim=-1).values
            for name, reading in self.readings.items():
                values = self._refitted(kept, name)
                attention = reading.attention.gather(2, kept.unsqueeze(1).expand(-1, reading.attention.shape[1], -1))
                mass = reading.other_mass + attention.sum(dim=-1)
                for number, (keys, codec) in enumerate(recipe.codec_pairs):
                    if keys == name:
                        output = reading.other_output + attention @ _packed(values, CODECS[codec], False)
                        found[:, number, place] = cost(reading, output, mass)
        return found

    def _refitted(self, kept: torch.Tensor, codec: str) -> torch.Tensor:
        """Return the values of kept entries, refitted for keys in a codec."""
        rows = kept.unsqueeze(-1).expand(-1, -1, self.layer.keys.shape[2])
        values = self.layer.reading.values.gather(1, rows)
        if codec == EXACT.name and kept.shape[1] == self.layer.num_keys:
            return values  # nothing is missing
        return refit_values(self.queries, self.wanted, self.keys[codec].gather(1, rows), values, self.scaling)


def _after(attention: models.Attention, bank: torch.Tensor, num_keys: int) -> torch.Tensor:
    """Return queries before rotation (heads, n, head_dim), rotated to the positions after a context, float32."""
    states = bank.float().unsqueeze(0).to(attention.o_proj.weight.device)
    return models.rotate(states, *models.rotary_from(attention, states, num_keys))[0].cpu()


def _packed(states: torch.Tensor, codec: Codec, is_keys: bool) -> torch.Tensor:
    """Return states (kv_heads, keys, head_dim) after encoding and decoding."""
    return torch.stack([codec.read_back(head, is_keys) for head in states])
