"""Results of a fitted router on held-out contexts, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.routers import kept_cost, predicted
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router
from pikvpress.routers.feature_names import feature_names


@dataclass(frozen=True)
class Findings:
    """Means over held-out contexts; divergences are predicted, in nats summed over a future's tokens.

    Parameters
    ----------
    experts : list of str
        Names, in the order of the last dimension.
    weights : torch.Tensor
        Gate weights, shape (ratios, layers, kv_heads, experts).
    alone : torch.Tensor
        Predicted divergence of each expert alone at equal budgets, same shape.
    routed : torch.Tensor
        Predicted divergence of the router at equal budgets, shape (ratios, layers, kv_heads).
    oracle : torch.Tensor
        Predicted divergence of the best expert for each head and input, same shape.
    budgets : torch.Tensor
        Share of the keys that each head keeps with fitted budgets, same shape.
    without : dict of str to float
        For each head feature, the predicted divergence without it, relative to that with all features; above 1, it
        helps.
    """

    experts: list[str]
    weights: torch.Tensor
    alone: torch.Tensor
    routed: torch.Tensor
    oracle: torch.Tensor
    budgets: torch.Tensor
    without: dict[str, float]

    def expert_shares(self) -> dict[str, float]:
        """Return each expert's gate weight, averaged over ratios, layers and heads."""
        mean = self.weights.nanmean(dim=(0, 1, 2)).tolist()
        return dict(zip(self.experts, mean, strict=True))

    def regret(self) -> list[float]:
        """Return the router's divergence relative to the oracle's, for each ratio."""
        return (self.routed.nansum(dim=(1, 2)) / self.oracle.nansum(dim=(1, 2)).clamp_min(1e-12)).tolist()

    def best_alone(self) -> list[tuple[str, float]]:
        """Return the best single expert and its divergence relative to the router's, for each ratio."""
        alone = self.alone.nansum(dim=(1, 2))
        routed = self.routed.nansum(dim=(1, 2)).clamp_min(1e-12)
        return [
            (self.experts[int(row.argmin())], float(row.min() / value))
            for row, value in zip(alone, routed, strict=True)
        ]


@torch.no_grad()
def find(
    router: Router, experts: Sequence[str], records: Sequence[Record], budgets: HeadBudgets, progress: Progress
) -> Findings:
    """Evaluate a router on records that it was not fitted on.

    Parameters
    ----------
    router : Router
        The router for equal budgets.
    experts : sequence of str
        Names of the experts.
    records : sequence of Record
        Records of held-out contexts.
    budgets : HeadBudgets
        The fitted budgets to show; contains the recipe.
    progress : callable
        Called after every record.
    """
    recipe, (layers, heads, count) = budgets.recipe, router.static.shape
    equal, shape = HeadBudgets(recipe), (len(recipe.ratios), layers, heads)
    weights, alone = torch.full((*shape, count), torch.nan), torch.full((*shape, count), torch.nan)
    routed, oracle = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    available = torch.ones(count, dtype=torch.bool)
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            for ratio in range(len(recipe.ratios)):
                gate = router(index, layer.seen.features[ratio].unsqueeze(0), available).weights[0]
                ranks = layer.seen.ranks[ratio]
                blended = (gate.unsqueeze(1) @ ranks).squeeze(1)
                single = [kept_cost(layer, ranks[:, e], index, ratio, equal) for e in range(count)]
                costs = torch.stack(single, dim=-1)
                for target, value in (
                    (weights, gate),
                    (alone, costs),
                    (routed, kept_cost(layer, blended, index, ratio, equal)),
                    (oracle, costs.amin(dim=-1)),
                ):
                    target[ratio, index] = target[ratio, index].nan_to_num(0) + value / len(records)
        progress("checking on held-out text")
    shown = recipe.shown_keys
    shares = [
        torch.stack([budgets.counts(ratio, shown, index, heads) for index in range(layers)]) / shown
        for ratio in range(len(recipe.ratios))
    ]
    without = _without(router, experts, records, equal)
    return Findings(list(experts), weights, alone, routed, oracle, torch.stack(shares), without)


def _without(
    router: Router, experts: Sequence[str], records: Sequence[Record], budgets: HeadBudgets
) -> dict[str, float]:
    """Return the effect of omitting each group of head features."""
    names = feature_names(experts)
    groups = [*dict.fromkeys(name.split("/")[0] for name in names)]
    whole = predicted(router, records, budgets).clamp_min(1e-12)
    evidence = router.evidence.detach().clone()
    result = {}
    for group in groups:
        rows = torch.tensor([name.split("/")[0] == group for name in names])
        if not (evidence[rows].any() and router.seen[rows].any()):
            continue
        router.evidence[rows] = 0
        result[group] = float((predicted(router, records, budgets) / whole).mean())
        router.evidence.copy_(evidence)
    return result
