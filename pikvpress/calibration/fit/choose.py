"""Choice of the experts that are worth their cost: those with much weight in a static blend of all candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.routers import fit_router, kept_cost
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router


@torch.no_grad()
def expert_costs(
    records: Sequence[Record], layers: int, heads: int, recipe: Recipe, progress: Progress
) -> torch.Tensor:
    """Return the cost of each expert's own selections per head at equal budgets, relative to the mean of all heads.

    Returns
    -------
    torch.Tensor
        Means over records and ratios, shape (layers, kv_heads, experts); 1 for layers that are not compressed.
    """
    equal, costs = HeadBudgets(recipe), torch.ones(0)
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            ranks = layer.seen.ranks
            if not costs.numel():
                costs = torch.zeros(len(recipe.ratios), layers, heads, ranks.shape[2])
            for ratio in range(len(recipe.ratios)):
                for expert in range(ranks.shape[2]):
                    costs[ratio, index, :, expert] += kept_cost(layer, ranks[ratio, :, expert], index, ratio, equal)
        progress("comparing experts")
    relative = costs / costs.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
    mean = relative.mean(dim=0)
    return torch.where(mean.sum(dim=-1, keepdim=True) > 0, mean, 1.0)


def blend_by_costs(costs: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Return logits of a blend in which an expert's weight is its cost to the power -sharpness, same shape."""
    return -sharpness * (costs.clamp_min(1e-12) / costs.amin(dim=-1, keepdim=True).clamp_min(1e-12)).log()


def choose_experts(router: Router, records: Sequence[Record], recipe: Recipe, progress: Progress) -> list[int]:
    """Return the experts to route to, in the order of the candidates: at least two, if there are two.

    Parameters
    ----------
    router : Router
        A static router for all candidates; fitted here, at equal budgets.
    records : sequence of Record
        Records to fit on; none of those that results are reported on.
    recipe : Recipe
        Defines the maximum number of experts, and their minimum share of the blend.
    progress : callable
        Called after every step.
    """
    fit_router(router, [router.static], records, HeadBudgets(recipe), recipe.epochs, progress)
    used = sorted({int(index) for record in records for index in record.layers})
    shares = router.static.detach()[used].softmax(dim=-1).mean(dim=(0, 1))
    best = shares.argsort(descending=True)[: recipe.max_experts]
    few, worth = recipe.fewest_experts, recipe.worth
    return sorted(int(expert) for place, expert in enumerate(best) if place < few or shares[expert] >= worth)
