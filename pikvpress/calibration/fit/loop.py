"""The training loop shared by all fits, and validation on held-out contexts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from pikvpress.routers import Router

Example = TypeVar("Example")
# From an example, a flag for the first half of the epochs, and a source of random choices to losses, whose gradients
# are summed. Losses are generated one at a time, so that each one's memory is freed before the next.
Losses = Callable[[Example, bool, random.Random], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class Pace:
    """Length and speed of a fit.

    Parameters
    ----------
    epochs : int
        Number of visits of every example.
    learning_rate : float
        Learning rate of Adam.
    averaged : int
        The result is the mean over the last 1/averaged of the steps.
    batch : int, default=1
        Number of examples per step.
    slowing : float, default=0.0
        Share of the learning rate that is removed, linearly, by the end.
    """

    epochs: int
    learning_rate: float
    averaged: int
    batch: int = 1
    slowing: float = 0.0


def descend(
    parameters: Sequence[torch.nn.Parameter],
    losses: Losses[Example],
    examples: Sequence[Example],
    pace: Pace,
    seed: int,
    progress: Callable[[], None],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Minimise losses by gradient descent, in place.

    Gradients left by an earlier fit are cleared first.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        Parameters to fit.
    losses : callable
        Losses to minimise; see `Losses`.
    examples : sequence
        Each is visited once per epoch.
    pace : Pace
        Length and speed of the fit.
    seed : int
        Random seed of the order of the examples and of random choices in the losses.
    progress : callable
        Called after every example.
    optimizer : torch.optim.Optimizer, optional
        What changes the parameters, instead of Adam with the learning rate of the pace.
    """
    optimizer = optimizer or torch.optim.Adam(parameters, lr=pace.learning_rate)
    steps = pace.epochs * math.ceil(len(examples) / pace.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - pace.slowing * step / max(1, steps))
    mean, chance, stepped = TailMean(parameters, steps, pace.averaged), random.Random(seed), True
    for epoch in range(pace.epochs):
        order = chance.sample(list(examples), len(examples))
        for number, example in enumerate(order, 1):
            if stepped:
                optimizer.zero_grad()
            with torch.enable_grad():
                for loss in losses(example, epoch < pace.epochs // 2, chance):
                    (loss / pace.batch).backward()  # type: ignore[no-untyped-call]
            stepped = number % pace.batch == 0 or number == len(order)
            if stepped:
                optimizer.step()
                schedule.step()
                mean.add()
            progress()
    mean.take()


class TailMean:
    """The mean of parameters over the last part of their steps.

    Parameters
    ----------
    parameters : sequence of nn.Parameter
        Parameters that an optimizer changes.
    steps : int
        Total number of steps.
    parts : int
        Number of parts that the steps are divided into.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], steps: int, parts: int):
        self._parameters, self._skipped = list(parameters), steps - max(1, steps // parts)
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
        """Set the parameters to their mean."""
        for total, parameter in zip(self._totals, self._parameters, strict=True):
            parameter.copy_(total / (self._steps - self._skipped))


@contextmanager
def in_training(router: Router, seed: int) -> Iterator[None]:
    """Enable dropout of a router's features, reproducibly for a seed; the router is in eval mode afterwards."""
    torch.manual_seed(seed)  # `calibrate` restores the caller's generator
    router.train()
    try:
        yield
    finally:
        router.eval()


class HeldOut:
    """The best state of a router on held-out contexts.

    Parameters
    ----------
    router : Router
        The router, which is measured after each stage.
    measure : callable
        Returns its divergence on held-out contexts, shape (ratios,).

    Attributes
    ----------
    found : dict of str to torch.Tensor
        The divergence after each stage.
    best : str
        The stage that is kept.
    """

    def __init__(self, router: Router, measure: Callable[[], torch.Tensor], first: str):
        self._router, self._measure = router, measure
        self.first = self.best = first
        self.found = {first: measure()}
        self._kept = _copy(router)

    def look(self, stage: str, gain: float = 0.0) -> None:
        """Measure the router after a stage; restore the best state unless this one is better by a share ``gain``."""
        self.found[stage] = self._measure()
        if self._relative(stage) < (1 - gain) * self._relative(self.best):
            self.best, self._kept = stage, _copy(self._router)
        self._router.load_state_dict(self._kept)

    def figures(self, name: str) -> dict[str, object]:
        """Return the divergences under a name, and the stage that is kept."""
        return {name: {stage: values.tolist() for stage, values in self.found.items()}, "kept": self.best}

    def _relative(self, stage: str) -> float:
        """Return the mean over ratios of a stage's divergence relative to the first one's."""
        return float((self.found[stage] / self.found[self.first].clamp_min(1e-12)).mean())


def _copy(router: Router) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in router.state_dict().items()}
