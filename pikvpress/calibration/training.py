"""Fitting a router: gradients of the predicted divergence, layer by layer, through a selection made soft."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from kvpress.utils import compute_n_kept

from pikvpress.budgets.fitted_counts import fitted_counts
from pikvpress.calibration.collect import RATIOS, LayerRecord, Record
from pikvpress.calibration.measure import Reading, cost, divergence
from pikvpress.kernels.compact import highest
from pikvpress.routers import Router

KEEP_SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625, 0.03125)
SOFTNESS = 0.05  # of the selection, in ranks, where gradients flow through it
ROWS = 96  # queries of a head that training looks at
LEARNING_RATE = 0.05
SHARPNESS = 2.0  # of the blend that fitting starts from

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Budgets:
    """What each head keeps at each ratio: all the same, or shares by error curves.

    Parameters
    ----------
    curves : torch.Tensor, optional
        Predicted divergence by share kept, shape (ratios, layers, kv_heads, len(KEEP_SHARES)); NaN for layers that are
        not compressed. Without it budgets are equal.
    """

    curves: torch.Tensor | None = None
    _counts: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def counts(self, ratio: int, num_keys: int, layer: int, heads: int) -> torch.Tensor:
        """Return the tokens that the heads of a layer keep, shape (kv_heads,)."""
        kept = compute_n_kept(num_keys, RATIOS[ratio])
        if self.curves is None:
            return torch.full((heads,), kept)
        if (ratio, num_keys) not in self._counts:
            self._counts[ratio, num_keys] = fitted_counts(self.curves[ratio], KEEP_SHARES, num_keys, kept)
        return self._counts[ratio, num_keys][layer]


EQUAL = Budgets()


def error_curves(router: Router, records: Sequence[Record], layers: int, progress: Progress) -> torch.Tensor:
    """Return the mean predicted divergence of a router's blends over records, as in `Budgets`."""
    heads = router.static.shape[1]
    curves = torch.full((len(RATIOS), layers, heads, len(KEEP_SHARES)), torch.nan)
    router.eval()
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            num_keys = layer.ranks.shape[-1]
            counts = [max(1, round(share * num_keys)) for share in reversed(KEEP_SHARES)]
            for ratio in range(len(RATIOS)):
                with torch.no_grad():
                    order = blended_ranks(router, index, layer, ratio)[0].argsort(dim=-1, descending=True)
                    measured = divergence(layer.reading, order, counts).flip(-1) / len(records)
                curves[ratio, index] = curves[ratio, index].nan_to_num(0) + measured
        progress("measuring error curves")
    return curves


def expert_costs(records: Sequence[Record], layers: int, heads: int, progress: Progress) -> torch.Tensor:
    """Return what each expert's own selections cost a head at equal budgets, relative to all heads' mean.

    Returns
    -------
    torch.Tensor
        Means over records and ratios, shape (layers, kv_heads, experts); 1 for layers that are not compressed.
    """
    costs = torch.ones(0)
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            ranks = layer.ranks
            if not costs.numel():
                costs = torch.zeros(len(RATIOS), layers, heads, ranks.shape[2])
            for ratio in range(len(RATIOS)):
                counts = EQUAL.counts(ratio, ranks.shape[-1], index, heads)
                for expert in range(ranks.shape[2]):
                    kept = kept_keys(ranks[ratio, :, expert], counts)
                    costs[ratio, index, :, expert] += selection_cost(layer.reading, kept)
        progress("comparing experts")
    relative = costs / costs.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
    mean = relative.mean(dim=0)
    return torch.where(mean.sum(dim=-1, keepdim=True) > 0, mean, 1.0)


def blend_by_costs(costs: torch.Tensor) -> torch.Tensor:
    """Return logits of a blend in which an expert's weight falls with the square of what it costs, shape as given."""
    return -SHARPNESS * (costs.clamp_min(1e-12) / costs.amin(dim=-1, keepdim=True).clamp_min(1e-12)).log()


def train(
    router: Router,
    parameters: Sequence[torch.nn.Parameter],
    records: Sequence[Record],
    budgets: Budgets,
    epochs: int,
    seed: int,
    progress: Progress,
) -> None:
    """Fit some of a router's parameters to records, in place.

    The loss of a head is the predicted divergence of what it keeps, divided by what all heads together lose at that
    ratio before fitting; the router's auxiliary loss is added. The forward pass selects keys as the press does, the
    backward pass through a sigmoid over the blended ranks. For the first half of the epochs all experts are blended by
    their probability, so that those which the router leaves out learn too. The result is the mean over the last third
    of the steps, which single contexts move about.

    Parameters
    ----------
    router : Router
        Fitted in place; in eval mode afterwards.
    parameters : sequence of nn.Parameter
        Of the router.
    records : sequence of Record
        Each is visited once an epoch, at a ratio drawn anew.
    budgets : Budgets
        Of what heads keep.
    epochs, seed : int
        How long, and in which order.
    progress : callable
        Told of every step.
    """
    scales = predicted(router, records, budgets).clamp_min(1e-12)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    steps = epochs * len(records)
    mean = TailMean(parameters, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.9 * step / max(1, steps))
    chance = random.Random(seed)
    torch.manual_seed(seed)  # of dropout; the caller's generator is put back by `calibrate`
    router.train()
    for epoch in range(epochs):
        dense = epoch < epochs // 2
        for record in chance.sample(list(records), len(records)):
            ratio = chance.randrange(len(RATIOS))
            optimizer.zero_grad()
            for index in record.layers:
                layer = record.layer(index, ROWS)
                layer_loss(router, index, layer, ratio, budgets, scales, dense).backward()
            optimizer.step()
            schedule.step()
            mean.add()
            progress("fitting")
    mean.take()
    router.eval()


class TailMean:
    """The mean of parameters over the last third of their steps.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        Changed by an optimizer meanwhile.
    steps : int
        How many steps there will be.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], steps: int):
        self._parameters, self._skipped = list(parameters), steps - max(1, steps // 3)
        self._steps = 0
        self._totals = [torch.zeros_like(parameter) for parameter in self._parameters]

    def add(self) -> None:
        """Count one step."""
        self._steps += 1
        if self._steps > self._skipped:
            for total, parameter in zip(self._totals, self._parameters, strict=True):
                total += parameter.detach()

    @torch.no_grad()
    def take(self) -> None:
        """Give the parameters their mean."""
        for total, parameter in zip(self._totals, self._parameters, strict=True):
            parameter.copy_(total / (self._steps - self._skipped))


def layer_loss(
    router: Router,
    index: int,
    layer: LayerRecord,
    ratio: int,
    budgets: Budgets,
    scales: torch.Tensor,
    dense: bool = False,
) -> torch.Tensor:
    """Return the loss of one layer of a record, a scalar; see `train`."""
    blended, auxiliary = blended_ranks(router, index, layer, ratio, dense)
    counts = budgets.counts(ratio, blended.shape[1], index, blended.shape[0])
    return auxiliary + selection_cost(layer.reading, kept_keys(blended, counts)).sum() / scales[ratio]


def kept_keys(blended: torch.Tensor, counts: torch.Tensor, softness: float = SOFTNESS) -> torch.Tensor:
    """Return 1 for each head's highest blended ranks and 0 for the others, with the gradient of a sigmoid.

    Parameters
    ----------
    blended : torch.Tensor
        Blended ranks, or other scores, shape (kv_heads, keys); gradients flow to them.
    counts : torch.Tensor
        How many each head keeps, shape (kv_heads,).
    softness : float, default=0.05
        Width of the sigmoid, in units of the scores.
    """
    chosen = highest(blended.detach().unsqueeze(0), counts)[0]
    ordered = blended.detach().sort(dim=-1, descending=True).values
    threshold = ordered.gather(-1, (counts - 1).clamp_min(0).unsqueeze(-1))
    soft = torch.sigmoid((blended - threshold) / softness)
    return chosen.float() + soft - soft.detach()


def selection_cost(reading: Reading, kept: torch.Tensor) -> torch.Tensor:
    """Return what each head loses, shape (kv_heads,), if it keeps keys so far: shape (kv_heads, keys)."""
    weighed = reading.attention * kept.unsqueeze(1)
    output = reading.other_output + weighed @ reading.values
    return cost(reading, output, reading.other_mass + weighed.sum(dim=-1))


@torch.no_grad()
def predicted(router: Router, records: Sequence[Record], budgets: Budgets) -> torch.Tensor:
    """Return the mean predicted divergence on records, in nats, shape (ratios,)."""
    router.eval()
    total = torch.zeros(len(RATIOS))
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            for ratio in range(len(RATIOS)):
                blended, _ = blended_ranks(router, index, layer, ratio)
                counts = budgets.counts(ratio, blended.shape[1], index, blended.shape[0])
                total[ratio] += selection_cost(layer.reading, kept_keys(blended, counts)).sum() / len(records)
    return total


def blended_ranks(
    router: Router, index: int, layer: LayerRecord, ratio: int, dense: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's blended ranks (kv_heads, keys), of all experts if dense, and the router's auxiliary loss."""
    available = torch.ones(layer.ranks.shape[2], dtype=torch.bool)
    features = layer.features[ratio].unsqueeze(0)
    routing = router(index, features, available)
    weights = router.probabilities(index, features, available) if dense else routing.weights
    return (weights[0].unsqueeze(1) @ layer.ranks[ratio]).squeeze(1), routing.auxiliary_loss
