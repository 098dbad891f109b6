"""Every number used to train an adapter, and its source."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pikvpress.calibration.fit.objectives import OBJECTIVES


@dataclass(frozen=True)
class AdaptationRecipe:
    """The numbers of an adaptation.

    Parameters
    ----------
    minutes : float, default=15
        Approximate duration, unless `contexts` sets the number of contexts.
    contexts : int, optional
        Number of contexts to train on, each of which is read once.
    length : int, default=1024
        Tokens per context.
    rank : int, default=8
        Rank of the adapter's matrices (LoRA, https://arxiv.org/abs/2106.09685), 1 to 64.
    learning_rate : float, default=0.001
        Learning rate of Adam, which falls linearly to a tenth.
    rate_ratio : float, default=1
        How many times faster the second matrix of each pair learns, B in W + B A: above 1 this is LoRA+
        (https://arxiv.org/abs/2402.12354).
    objective : str, default="kl"
        What brings predictions from the compressed cache to those of the full one: a name in
        `pikvpress.calibration.fit.objectives.OBJECTIVES`.
    batch : int, default=2
        Number of contexts per step.
    averaged : int, default=4
        The result is the mean over the last 1/averaged of the steps, because single contexts cause noise.
    accepted : int, default=25
        As in `pikvpress.calibration.Recipe`, for the objective "speculative".
    fewest_contexts, most_contexts : int, default=8, 512
        Bounds on the number of contexts derived from `minutes`.
    training : float, default=0.6
        Share of the minutes for training; the rest is for held-out contexts.
    choosing, held_out : int, default=5, 10
        Number of contexts of held-out documents that decide whether the adapter is worth keeping, and of those, from
        other documents, that its gain is reported on.
    held_out_documents : int, default=4
        One of this many documents is held out.
    seed : int, default=0
        Random seed.

    Raises
    ------
    ValueError
        If a number is out of range, or the objective is unknown.
    """

    minutes: float = 15.0
    contexts: int | None = None
    length: int = 1024
    rank: int = 8
    learning_rate: float = 0.001
    rate_ratio: float = 1.0
    objective: str = "kl"
    batch: int = 2
    averaged: int = 4
    accepted: int = 25
    fewest_contexts: int = 8
    most_contexts: int = 512
    training: float = 0.6
    choosing: int = 5
    held_out: int = 10
    held_out_documents: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        OBJECTIVES[self.objective]
        for name in ("minutes", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 1 <= self.rank <= 64:
            raise ValueError(f"rank must be in [1, 64], got {self.rank}")
        if not (math.isfinite(self.rate_ratio) and self.rate_ratio >= 1):
            raise ValueError(f"rate_ratio must be at least 1 (1: plain LoRA), got {self.rate_ratio}")
        if not 0 < self.training < 1:
            raise ValueError(f"training must be in (0, 1), got {self.training}")
        counts = ("batch", "averaged", "accepted", "fewest_contexts", "choosing", "held_out")
        for name in (*counts, *(["contexts"] if self.contexts is not None else [])):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.held_out_documents < 2:
            raise ValueError(f"held_out_documents must be at least 2, got {self.held_out_documents}")

    def contexts_for(self, seconds: float) -> int:
        """Return the number of contexts to train on, given the time that one takes."""
        in_time = int(self.training * 60 * self.minutes / seconds)
        return self.contexts or min(self.most_contexts, max(self.fewest_contexts, in_time))
