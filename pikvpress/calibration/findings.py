"""What a fitted router does on held-out contexts, for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pikvpress.calibration.collect import RATIOS, Record
from pikvpress.calibration.training import EQUAL, Budgets, kept_keys, predicted, selection_cost
from pikvpress.routers import Router
from pikvpress.routers.feature_names import feature_names


@dataclass(frozen=True)
class Findings:
    """Means over held-out contexts; divergences as predicted, in nats summed over a future's tokens.

    Parameters
    ----------
    experts : list of str
        In the order of the last dimension.
    weights : torch.Tensor
        Gate weights, shape (ratios, layers, kv_heads, experts).
    alone : torch.Tensor
        Predicted divergence of each expert alone at equal budgets, same shape.
    routed : torch.Tensor
        Of the router at equal budgets, shape (ratios, layers, kv_heads).
    oracle : torch.Tensor
        Of the expert that is best for head and input, same shape.
    budgets : torch.Tensor
        Share of the keys that each head keeps with fitted budgets, same shape.
    without : dict of str to float
        By head feature: predicted divergence without it, relative to that with all; above 1 it helps.
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
        """Return, by ratio, the router's divergence relative to the oracle's."""
        return (self.routed.nansum(dim=(1, 2)) / self.oracle.nansum(dim=(1, 2)).clamp_min(1e-12)).tolist()

    def best_alone(self) -> list[tuple[str, float]]:
        """Return, by ratio, the best single expert and its divergence relative to the router's."""
        alone = self.alone.nansum(dim=(1, 2))
        routed = self.routed.nansum(dim=(1, 2)).clamp_min(1e-12)
        return [
            (self.experts[int(row.argmin())], float(row.min() / value))
            for row, value in zip(alone, routed, strict=True)
        ]


@torch.no_grad()
def find(
    router: Router, experts: Sequence[str], records: Sequence[Record], budgets: Budgets, progress: Callable[[str], None]
) -> Findings:
    """Look at a router on records that it was not fitted on."""
    layers, heads, count = router.static.shape
    shape = (len(RATIOS), layers, heads)
    weights, alone = torch.full((*shape, count), torch.nan), torch.full((*shape, count), torch.nan)
    routed, oracle = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    available = torch.ones(count, dtype=torch.bool)
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            num_keys = layer.ranks.shape[-1]
            for ratio in range(len(RATIOS)):
                counts = EQUAL.counts(ratio, num_keys, index, heads)
                gate = router(index, layer.features[ratio].unsqueeze(0), available).weights[0]
                ranks = layer.ranks[ratio]
                blended = (gate.unsqueeze(1) @ ranks).squeeze(1)
                single = [selection_cost(layer.reading, kept_keys(ranks[:, e], counts)) for e in range(count)]
                costs = torch.stack(single, dim=-1)
                for target, value in (
                    (weights, gate),
                    (alone, costs),
                    (routed, selection_cost(layer.reading, kept_keys(blended, counts))),
                    (oracle, costs.amin(dim=-1)),
                ):
                    target[ratio, index] = target[ratio, index].nan_to_num(0) + value / len(records)
        progress("checking on held-out text")
    num_keys = 1024  # shares hardly depend on it
    shares = torch.stack(
        [
            torch.stack([budgets.counts(ratio, num_keys, index, heads) for index in range(layers)]) / num_keys
            for ratio in range(len(RATIOS))
        ]
    )
    without = _without(router, experts, records)
    return Findings(list(experts), weights, alone, routed, oracle, shares, without)


def _without(router: Router, experts: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
    """Return what leaving each group of head features out does at equal budgets."""
    names = feature_names(experts)
    groups = [*dict.fromkeys(name.split("/")[0] for name in names)]
    whole = predicted(router, records, EQUAL).clamp_min(1e-12)
    evidence = router.evidence.detach().clone()
    result = {}
    for group in groups:
        rows = torch.tensor([name.split("/")[0] == group for name in names])
        if not (evidence[rows].any() and router.seen[rows].any()):
            continue
        router.evidence[rows] = 0
        result[group] = float((predicted(router, records, EQUAL) / whole).mean())
        router.evidence.copy_(evidence)
    return result
