"""Fitting a router layer by layer: gradients of the predicted divergence, through a soft selection."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.loop import Pace, descend, in_training
from pikvpress.calibration.measure.cost import selection_cost
from pikvpress.calibration.measure.record import LayerRecord, Record
from pikvpress.calibration.measure.selection import blended_ranks, kept_keys
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router


@dataclass(frozen=True)
class LayerLosses:
    """The losses of a router on a record, layer by layer, at a ratio drawn for each call.

    The loss of a head is the predicted divergence of what it keeps, divided by the loss of all heads together at that
    ratio before fitting; the router's auxiliary loss is added. The forward pass selects keys as the press does; the
    backward pass uses a sigmoid over the blended ranks. In the first half of the epochs, all experts are blended by
    their probability, so that experts that the router does not select also receive gradients.

    Parameters
    ----------
    router : Router
        Gradients flow to its parameters.
    budgets : HeadBudgets
        What heads keep; contains the recipe.
    scales : torch.Tensor
        Divisors of the loss, shape (ratios,).
    """

    router: Router
    budgets: HeadBudgets
    scales: torch.Tensor

    def __call__(self, record: Record, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
        """Yield the loss of each layer."""
        ratio = chance.randrange(len(self.scales))
        for index in record.layers:
            yield self.of(index, record.layer(index, self.budgets.recipe.rows), ratio, dense=early)

    def of(self, index: int, layer: LayerRecord, ratio: int, dense: bool = False) -> torch.Tensor:
        """Return the loss of one layer, a scalar; if dense, for the blend of all experts."""
        blended, auxiliary = blended_ranks(self.router, index, layer.seen, ratio, dense)
        return auxiliary + kept_cost(layer, blended, index, ratio, self.budgets).sum() / self.scales[ratio]


def fit_router(
    router: Router,
    parameters: Sequence[torch.nn.Parameter],
    records: Sequence[Record],
    budgets: HeadBudgets,
    epochs: int,
    progress: Progress,
) -> None:
    """Fit some of a router's parameters to records, in place.

    Parameters
    ----------
    router : Router
        The router, fitted in place and in eval mode afterwards.
    parameters : sequence of nn.Parameter
        Parameters of the router.
    records : sequence of Record
        Each is visited once per epoch.
    budgets : HeadBudgets
        What heads keep; contains the recipe.
    epochs : int
        Number of epochs.
    progress : callable
        Called after every step.
    """
    recipe = budgets.recipe
    losses = LayerLosses(router, budgets, predicted(router, records, budgets).clamp_min(1e-12))
    pace = Pace(epochs, recipe.learning_rate, recipe.averaged, slowing=recipe.slowing)
    with in_training(router, recipe.seed):
        descend(parameters, losses, records, pace, recipe.seed, lambda: progress("fitting"))


@torch.no_grad()
def predicted(router: Router, records: Sequence[Record], budgets: HeadBudgets) -> torch.Tensor:
    """Return the mean predicted divergence on records, in nats, shape (ratios,)."""
    router.eval()
    total = torch.zeros(len(budgets.recipe.ratios))
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            for ratio in range(len(total)):
                blended, _ = blended_ranks(router, index, layer.seen, ratio)
                total[ratio] += kept_cost(layer, blended, index, ratio, budgets).sum() / len(records)
    return total


def kept_cost(layer: LayerRecord, scores: torch.Tensor, index: int, ratio: int, budgets: HeadBudgets) -> torch.Tensor:
    """Return the loss of each head if it keeps the keys with the highest ranks (kv_heads, keys), shape (kv_heads,)."""
    counts = budgets.counts(ratio, scores.shape[1], index, scores.shape[0])
    return selection_cost(layer.reading, kept_keys(scores, counts, budgets.recipe.softness))
