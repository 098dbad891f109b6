"""The end-to-end stage: gates fitted to what the whole model predicts, not to each head's own loss."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from pikvpress.calibration.collect import RATIOS, Context, Record
from pikvpress.calibration.objectives import Objective, corrected, kl
from pikvpress.calibration.student import predict
from pikvpress.calibration.training import Budgets, TailMean, kept_keys
from pikvpress.routers import Router

LEARNING_RATE = 0.01  # five times this diverges
ACCUMULATED = 4  # situations whose gradients make one step
ACCEPTED = 25  # of the teacher's best tokens a student's proposal may be

Progress = Callable[[str], None]
Example = tuple[Record, Sequence[Sequence[int]]]


def kept_by(router: Router, context: Context, ratio: int, budgets: Budgets) -> dict[int, torch.Tensor]:
    """Return how far the router keeps each key, by layer, straight through: 0 or 1, with gradients.

    Parameters
    ----------
    router : Router
        Gradients flow to its parameters.
    context : Context
        Of a record.
    ratio : int
        Index into `RATIOS`.
    budgets : Budgets
        What heads keep.
    """
    kept = {}
    for index, (ranks, features) in context.layers.items():
        available = torch.ones(ranks.shape[2], dtype=torch.bool, device=ranks.device)
        weights = router(index, features[ratio].unsqueeze(0), available).weights[0]
        blended = (weights.unsqueeze(1) @ ranks[ratio]).squeeze(1)
        counts = budgets.counts(ratio, context.num_keys, index, blended.shape[0])
        kept[index] = kept_keys(blended, counts.to(blended.device))
    return kept


def distill(
    model: PreTrainedModel,
    router: Router,
    parameters: Sequence[torch.nn.Parameter],
    examples: Sequence[Example],
    budgets: Budgets,
    objective: Objective,
    scales: torch.Tensor,
    epochs: int,
    seed: int,
    progress: Progress,
) -> None:
    """Move a router's parameters so that predictions from the compressed cache come closer to the full one's.

    The model is frozen; the student's selection is straight-through. Ratios take turns at random; the result is the
    mean over the last third of the steps.

    Parameters
    ----------
    model, router, parameters, budgets
        As in `training.train`; the router is changed in place.
    examples : sequence of (Record, futures)
        Measured situations and the token ids of their futures.
    objective : Objective
        What is minimised, and on which text.
    scales : torch.Tensor
        What a loss is divided by, so that ratios count alike, shape (ratios,).
    epochs, seed : int
        How long, and in which order.
    progress : callable
        Told of every situation.
    """
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    steps = epochs * math.ceil(len(examples) / ACCUMULATED)
    mean = TailMean(parameters, steps)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for _ in range(epochs):
            order = chance.sample(list(examples), len(examples))
            for number, (record, futures) in enumerate(order, 1):
                context = record.context(model.device, model.dtype)
                ratio = chance.randrange(len(RATIOS))
                kept = kept_by(router, context, ratio, budgets)
                loss = _loss(model, context, kept, chance.choice(futures), objective, generator)
                (loss / float(scales[ratio]) / ACCUMULATED).backward()
                if number % ACCUMULATED == 0 or number == len(order):
                    optimizer.step()
                    optimizer.zero_grad()
                    mean.add()
                progress("fitting end to end")
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    mean.take()


@torch.no_grad()
def real_divergence(
    model: PreTrainedModel, router: Router, examples: Sequence[Example], budgets: Budgets, progress: Progress
) -> torch.Tensor:
    """Return the mean KL divergence of the model's predictions, in nats a token, shape (ratios,)."""
    total = torch.zeros(len(RATIOS))
    for record, futures in examples:
        context = record.context(model.device, model.dtype)
        teachers = predict(model, context.cache, {}, futures)
        for ratio in range(len(RATIOS)):
            kept = kept_by(router, context, ratio, budgets)
            students = predict(model, context.cache, kept, futures)
            total[ratio] += mean_divergence(teachers, students) / len(examples)
        progress("checking on held-out text")
    return total


def mean_divergence(teachers: Sequence[torch.Tensor], students: Sequence[torch.Tensor]) -> float:
    """Return the KL divergence in nats a token, the futures counting alike."""
    found = [float(kl(teacher, student)) for teacher, student in zip(teachers, students, strict=True)]
    return sum(found) / len(found)


def _loss(
    model: PreTrainedModel,
    context: Context,
    kept: dict[int, torch.Tensor],
    future: Sequence[int],
    objective: Objective,
    generator: torch.Generator,
) -> torch.Tensor:
    losses = []
    for source, divergence in objective.terms:
        text = _text(model, context, kept, future, source, generator)
        with torch.no_grad():
            (teacher,) = predict(model, context.cache, {}, [text])
        (student,) = predict(model, context.cache, kept, [text])
        losses.append(divergence(teacher, student))
    return torch.stack(losses).mean()


@torch.no_grad()
def _text(
    model: PreTrainedModel,
    context: Context,
    kept: dict[int, torch.Tensor],
    future: Sequence[int],
    source: str,
    generator: torch.Generator,
) -> list[int]:
    """Return a future as it is, or its first half continued by the teacher, the student, or both."""
    if source == "given":
        return list(future)
    text = list(future[: (len(future) + 1) // 2])
    while len(text) < len(future):
        if source == "teacher":
            text.append(_sampled(predict(model, context.cache, {}, [text])[0][-1], generator))
            continue
        proposed = _sampled(predict(model, context.cache, kept, [text])[0][-1], generator)
        if source == "corrected":
            teacher = predict(model, context.cache, {}, [text])[0][-1]
            proposed = corrected(proposed, teacher, ACCEPTED, generator)
        text.append(proposed)
    return text


def _sampled(predicted: torch.Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(predicted.exp().cpu(), 1, generator=generator))
