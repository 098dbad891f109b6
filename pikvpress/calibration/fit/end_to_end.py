"""The end-to-end stage: gates are fitted to the model's predictions, not to each head's own loss."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.loop import Pace, descend, in_training
from pikvpress.calibration.fit.objectives import Objective, kl
from pikvpress.calibration.fit.sampled import text_of
from pikvpress.calibration.measure.record import MeasuredContext, Record
from pikvpress.calibration.measure.selection import blended_ranks, kept_keys
from pikvpress.calibration.measure.student import predict
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router

Example = tuple[Record, Sequence[Sequence[int]]]  # a measured situation, and the token ids of its futures


def kept_by(router: Router, context: MeasuredContext, ratio: int, budgets: HeadBudgets) -> dict[int, torch.Tensor]:
    """Return whether the router keeps each key, by layer, with a straight-through estimator: 0 or 1, with gradients.

    Parameters
    ----------
    router : Router
        Gradients flow to its parameters.
    context : MeasuredContext
        The context of a record.
    ratio : int
        Index of the ratio in the recipe.
    budgets : HeadBudgets
        What heads keep.
    """
    kept = {}
    for index, seen in context.layers.items():
        blended, _ = blended_ranks(router, index, seen, ratio)
        counts = budgets.counts(ratio, context.num_keys, index, blended.shape[0])
        kept[index] = kept_keys(blended, counts.to(blended.device), budgets.recipe.softness)
    return kept


@dataclass(frozen=True)
class EndToEndLosses:
    """Divergence between predictions from the compressed and from the full cache, at a ratio drawn for each call.

    The student's selection uses a straight-through estimator.

    Parameters
    ----------
    model : PreTrainedModel
        The model, whose parameters are frozen during fitting.
    router : Router
        Gradients flow to its parameters.
    budgets : HeadBudgets
        What heads keep; contains the recipe.
    objective : Objective
        The objective, and the text that it is computed on.
    scales : torch.Tensor
        Divisors of the loss, so that ratios count equally, shape (ratios,).
    generator : torch.Generator
        Random generator for texts, on the CPU.
    """

    model: PreTrainedModel
    router: Router
    budgets: HeadBudgets
    objective: Objective
    scales: torch.Tensor
    generator: torch.Generator

    def __call__(self, example: Example, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
        """Yield the loss on one of a situation's futures."""
        record, futures = example
        context = record.context(self.model.device, self.model.dtype)
        ratio = chance.randrange(len(self.scales))
        kept = kept_by(self.router, context, ratio, self.budgets)
        future, losses, accepted = chance.choice(futures), [], self.budgets.recipe.accepted

        def teach(text: Sequence[int]) -> torch.Tensor:
            return predict(self.model, context.cache, {}, [text])[0]

        def follow(text: Sequence[int]) -> torch.Tensor:
            return predict(self.model, context.cache, kept, [text])[0]

        for source, divergence in self.objective.terms:
            text = text_of(future, source, (teach, follow), accepted, self.generator)
            with torch.no_grad():
                teacher = teach(text)
            losses.append(divergence(teacher, follow(text)))
        yield torch.stack(losses).mean() / float(self.scales[ratio])


def fit_end_to_end(
    losses: EndToEndLosses, parameters: Sequence[torch.nn.Parameter], examples: Sequence[Example], progress: Progress
) -> None:
    """Fit a router's parameters so that predictions from the compressed cache come closer to those of the full one.

    Dropout applies here, but balance losses do not. The router is in eval mode afterwards.

    Parameters
    ----------
    losses : EndToEndLosses
        The losses to minimise, and the router that is changed in place.
    parameters : sequence of nn.Parameter
        Parameters of the router.
    examples : sequence of (Record, futures)
        Measured situations and the token ids of their futures.
    progress : callable
        Called after every situation.
    """
    recipe = losses.budgets.recipe
    pace = Pace(recipe.epochs_end_to_end, recipe.learning_rate_end_to_end, recipe.averaged, batch=recipe.accumulated)
    with _frozen(losses.model), in_training(losses.router, recipe.seed):
        descend(parameters, losses, examples, pace, recipe.seed, lambda: progress("fitting end to end"))


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@torch.no_grad()
def real_divergence(
    model: PreTrainedModel, router: Router, examples: Sequence[Example], budgets: HeadBudgets, progress: Progress
) -> torch.Tensor:
    """Return the mean KL divergence of the model's predictions, in nats per token, shape (ratios,)."""
    total = torch.zeros(len(budgets.recipe.ratios))
    for record, futures in examples:
        context = record.context(model.device, model.dtype)
        teachers = predict(model, context.cache, {}, futures)
        for ratio in range(len(total)):
            kept = kept_by(router, context, ratio, budgets)
            students = predict(model, context.cache, kept, futures)
            total[ratio] += mean_divergence(teachers, students) / len(examples)
        progress("checking on held-out text")
    return total


def mean_divergence(teachers: Sequence[torch.Tensor], students: Sequence[torch.Tensor]) -> float:
    """Return the KL divergence in nats per token, with equal weight for all futures."""
    found = [float(kl(teacher, student)) for teacher, student in zip(teachers, students, strict=True)]
    return sum(found) / len(found)
