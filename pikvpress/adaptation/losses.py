"""What an adapter is trained on: the divergence of its compressed predictions from the base model's full ones."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import BasePress
from peft import PeftModel

from pikvpress.adaptation.reading import read
from pikvpress.adaptation.recipe import AdaptationRecipe
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.fit.objectives import OBJECTIVES
from pikvpress.calibration.fit.sampled import text_of


@dataclass(frozen=True)
class AdaptationLosses:
    """Losses of one situation, for `pikvpress.calibration.fit.loop.descend`.

    The teacher is the base model with the full cache. The student is the model with its adapter, which has read the
    context with the adapter too, and compressed it by a press that is drawn for each situation.

    Parameters
    ----------
    model : PeftModel
        The model with an adapter.
    presses : sequence of BasePress
        Presses to draw from.
    recipe : AdaptationRecipe
        Objective and weights.
    generator : torch.Generator
        Random generator for texts, on the CPU.
    """

    model: PeftModel
    presses: Sequence[BasePress]
    recipe: AdaptationRecipe
    generator: torch.Generator

    def __call__(self, situation: Situation, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
        """Yield the loss on each of the situation's futures."""
        inner: Any = self.model.get_base_model()
        press = chance.choice(self.presses)
        with self.model.disable_adapter():
            full = read(inner, situation.context)
        compressed = read(inner, situation.context, press)

        @torch.no_grad()
        def teach(text: Sequence[int]) -> torch.Tensor:
            with self.model.disable_adapter():
                return full.predictions(inner, text)

        def follow(text: Sequence[int]) -> torch.Tensor:
            return compressed.predictions(inner, text)

        terms = OBJECTIVES[self.recipe.objective].terms
        for future in situation.futures:
            for source, divergence in terms:
                text = text_of(future, source, (teach, follow), self.recipe.accepted, self.generator)
                yield divergence(teach(text), follow(text)) / (len(situation.futures) * len(terms))
