"""Queries of futures, kept to refit values in contexts to come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.recipe import Recipe


@torch.no_grad()
def choose_queries(model: PreTrainedModel, records: Sequence[Record], recipe: Recipe) -> torch.Tensor:
    """Draw queries from the futures of records.

    Half of the probability is the same for all queries, half is proportional to the squared gradient of predictions
    with respect to the head's output: queries for whose output predictions matter.

    Parameters
    ----------
    model : PreTrainedModel
        The model that the records belong to.
    records : sequence of Record
        Measured situations.
    recipe : Recipe
        Defines the number of queries, and the random seed.

    Returns
    -------
    torch.Tensor
        Queries before rotation, shape (layers, heads, queries, head_dim), float16; 0 for layers that are not
        compressed.
    """
    layers, generator = models.attention_layers(model), torch.Generator().manual_seed(recipe.seed)
    chosen: dict[int, torch.Tensor] = {}
    with models.rotary_at_hand(model):
        for index in records[0].layers:
            queries, worth = _of_futures(layers[index], index, records)
            odds = worth / worth.mean(dim=1, keepdim=True).clamp_min(1e-30) + 1
            rows = odds.multinomial(min(recipe.bank, odds.shape[1]), generator=generator)
            chosen[index] = queries.gather(1, rows.unsqueeze(-1).expand(-1, -1, queries.shape[2])).half()
    none = torch.zeros_like(next(iter(chosen.values())))
    return torch.stack([chosen.get(index, none) for index in range(len(layers))])


def banks_for(
    model: PreTrainedModel, records: Sequence[Record], apart: Sequence[Record], recipe: Recipe
) -> list[torch.Tensor]:
    """Return queries to refit the values of each record with, none of them from the record itself.

    They come from records that are set apart or, without these, from the other ones.
    """
    if apart:
        return [choose_queries(model, apart, recipe)] * len(records)
    return [choose_queries(model, [*records[:i], *records[i + 1 :]], recipe) for i in range(len(records))]


def _of_futures(
    attention: models.Attention, index: int, records: Sequence[Record]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all queries of a layer before rotation, (heads, n, head_dim), and their squared gradients, (heads, n)."""
    queries, worth = [], []
    for record in records:
        first = record.num_keys(index)
        for rotated, gradients in record.queries(index):
            states = rotated.unsqueeze(0).to(attention.o_proj.weight.device)
            queries.append(models.unrotate(states, *models.rotary_from(attention, states, first))[0].cpu())
            worth.append(gradients.square().sum(dim=(0, 3)))
    return torch.cat(queries, dim=1), torch.cat(worth, dim=1)
