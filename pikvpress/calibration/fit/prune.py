"""Conditional computation: a layer computes an expert only if its heads gain more than the time is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.routers import kept_cost, predicted
from pikvpress.calibration.measure.record import LayerRecord, Record
from pikvpress.calibration.measure.selection import blended_ranks
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router

NEVER = -1000.0  # the logit of an expert that is not used: its probability is 0


@torch.no_grad()
def prune(
    router: Router,
    records: Sequence[Record],
    budgets: HeadBudgets,
    times: Sequence[float],
    progress: Progress,
) -> None:
    """Take experts away from layers in which they reduce the predicted divergence too little for their time, in place.

    In each layer, experts are taken away from all heads, one after the other, as long as the time saved is worth more
    than the increase of the divergence; at least one stays. Layers do not affect each other's predicted divergence.

    Parameters
    ----------
    router : Router
        A router that does not look at the input.
    records : sequence of Record
        Records that the increase is predicted for.
    budgets : HeadBudgets
        What heads keep; contains the recipe, and `Recipe.worth_of_time`.
    times : sequence of float
        Time of each expert in all layers, as a share of the prefill.
    progress : callable
        Called after every layer.
    """
    totals = predicted(router, records, budgets).clamp_min(1e-12)
    worth = torch.tensor(times) * budgets.recipe.worth_of_time / len(records[0].layers)
    for index in records[0].layers:
        layers = [record.layer(index, budgets.recipe.rows) for record in records]
        used = torch.ones(router.num_experts, dtype=torch.bool)
        cost = _relative_cost(router, layers, index, used, budgets, totals)
        while used.sum() > 1:
            without = {}
            for expert in used.nonzero()[:, 0].tolist():
                rest = used.clone()
                rest[expert] = False
                without[expert] = _relative_cost(router, layers, index, rest, budgets, totals)
            best = max(without, key=lambda expert: float(worth[expert]) - without[expert])
            if without[best] - cost > worth[best]:
                break
            used[best], cost = False, without[best]
        router.static[index, :, ~used] = NEVER
        progress("pruning")


@torch.no_grad()
def leave_one(router: Router) -> None:
    """Leave all heads of all layers one expert, the one with the most weight over all of them, in place.

    Parameters
    ----------
    router : Router
        A router that does not look at the input.
    """
    best = int(router.static.softmax(dim=-1).mean(dim=(0, 1)).argmax())
    router.static.fill_(NEVER)
    router.static[..., best] = 0.0


def _relative_cost(
    router: Router,
    layers: Sequence[LayerRecord],
    index: int,
    used: torch.Tensor,
    budgets: HeadBudgets,
    totals: torch.Tensor,
) -> float:
    """Return a layer's predicted divergence with some experts, relative to that of all layers, the mean over ratios."""
    found = 0.0
    for layer in layers:
        for ratio, total in enumerate(totals):
            blended, _ = blended_ranks(router, index, layer.seen, ratio, available=used)
            found += float(kept_cost(layer, blended, index, ratio, budgets).sum() / total)
    return found / len(layers) / len(totals)
