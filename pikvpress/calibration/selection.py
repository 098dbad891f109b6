"""Which experts are worth their cost: added one by one, by how close the model's own predictions come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from pikvpress.calibration.collect import RATIOS
from pikvpress.calibration.distillation import Example, Progress, kept_by, mean_divergence
from pikvpress.calibration.student import predict
from pikvpress.calibration.training import Budgets
from pikvpress.routers import Router

RATIO = RATIOS.index(0.875)


@torch.no_grad()
def choose_experts(
    model: PreTrainedModel,
    make: Callable[[Sequence[int]], Router],
    count: int,
    most: int,
    examples: Sequence[Example],
    budgets: Budgets,
    progress: Progress,
) -> list[int]:
    """Return the experts to route to, in the order of the candidates.

    Greedy: each round adds the candidate with which the unfitted router's predictions diverge least, with 87.5 %
    removed. Budgets should be fitted ones: with equal ones the few heads that lose everything drown what experts differ
    by.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it was found.
    make : callable
        Returns an unfitted router for some of the candidates.
    count : int
        How many candidates were measured.
    most : int
        How many are chosen, if there are so many.
    examples : sequence of (Record, futures)
        Measured contexts; none of those that decisions are reported on.
    budgets : Budgets
        What heads keep.
    progress : callable
        Told of every round and context.
    """
    chosen: list[int] = []
    while len(chosen) < min(most, count):
        tried = [sorted([*chosen, expert]) for expert in range(count) if expert not in chosen]
        found = _divergences(model, make, tried, examples, budgets, progress)
        chosen = tried[int(found.argmin())]
    return chosen


def _divergences(
    model: PreTrainedModel,
    make: Callable[[Sequence[int]], Router],
    sets: Sequence[Sequence[int]],
    examples: Sequence[Example],
    budgets: Budgets,
    progress: Progress,
) -> torch.Tensor:
    """Return the mean divergence with each set of experts, shape (sets,)."""
    total = torch.zeros(len(sets))
    for record, futures in examples:
        context = record.context(model.device, model.dtype)
        teachers = predict(model, context.cache, {}, futures)
        for number, experts in enumerate(sets):
            router = make(experts).to(model.device)
            kept = kept_by(router, context.of(experts), RATIO, budgets)
            total[number] += mean_divergence(teachers, predict(model, context.cache, kept, futures)) / len(examples)
        progress("choosing experts")
    return total
