"""What an adapter gains on held-out contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import BasePress
from peft import PeftModel

from pikvpress.adaptation.reading import ReadContext, read
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.fit.end_to_end import mean_divergence


@dataclass(frozen=True)
class Gains:
    """Predictions on held-out contexts, without and with the adapter.

    Parameters
    ----------
    before, after : torch.Tensor
        KL divergence from the base model with the full cache, in nats per token, shape (presses, contexts).
    surprise_before, surprise_after : torch.Tensor
        Mean negative log probability of the texts' own tokens with the full cache, in nats, shape (contexts,).
    """

    before: torch.Tensor
    after: torch.Tensor
    surprise_before: torch.Tensor
    surprise_after: torch.Tensor

    @property
    def shares(self) -> list[float]:
        """For each press, the mean divergence with the adapter as a share of that without it."""
        found: list[float] = (self.after.mean(dim=1) / self.before.mean(dim=1).clamp_min(1e-12)).tolist()
        return found

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity with the adapter and the full cache, as a share of the base model's."""
        return math.exp(float((self.surprise_after - self.surprise_before).mean()))


@torch.no_grad()
def measure(
    model: PeftModel, situations: Sequence[Situation], presses: Sequence[BasePress], progress: Callable[[], None]
) -> Gains:
    """Measure predictions without and with the adapter.

    Parameters
    ----------
    model : PeftModel
        The model with an adapter, which is restored at the end.
    situations : sequence of Situation
        Held-out contexts with their futures, each of at least two tokens.
    presses : sequence of BasePress
        Presses that compress the contexts.
    progress : callable
        Called after every context.
    """
    inner: Any = model.get_base_model()
    found: dict[str, list[list[float]]] = {name: [] for name in ("before", "after")}
    surprise: dict[str, list[float]] = {name: [] for name in ("before", "after")}

    def told(context: ReadContext, situation: Situation) -> list[torch.Tensor]:
        return [context.predictions(inner, future) for future in situation.futures]

    def apart(teacher: list[torch.Tensor], situation: Situation) -> list[float]:
        students = (told(read(inner, situation.context, press), situation) for press in presses)
        return [mean_divergence(teacher, student) for student in students]

    for situation in situations:
        with model.disable_adapter():
            teacher = told(read(inner, situation.context), situation)
            found["before"].append(apart(teacher, situation))
        found["after"].append(apart(teacher, situation))
        surprise["before"].append(_surprise(teacher, situation))
        surprise["after"].append(_surprise(told(read(inner, situation.context), situation), situation))
        progress()
    tensors = [torch.tensor(found[name]).T for name in ("before", "after")]
    return Gains(*tensors, *(torch.tensor(surprise[name]) for name in ("before", "after")))


def _surprise(predicted: Sequence[torch.Tensor], situation: Situation) -> float:
    """Return the mean negative log probability of each future's tokens after its first."""
    found = [
        -float(one[:-1].gather(1, torch.tensor(future[1:], device=one.device)[:, None]).mean())
        for one, future in zip(predicted, situation.futures, strict=True)
    ]
    return sum(found) / len(found)
