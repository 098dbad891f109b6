"""Scores of a context that serve every ratio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from kvpress import BasePress, ScorerPress

from pikvpress import models
from pikvpress.stopwatch import Stopwatch
from pikvpress.support.swapped import swapped


class SharedScores:
    """A press's scores of a context by layer, which do not depend on the ratio.

    Attributes
    ----------
    seconds_saved : float
        Time that scoring would have taken in the latest use if scores had not been reused.
    """

    def __init__(self) -> None:
        self._of_layer: dict[int, tuple[torch.Tensor, Stopwatch]] = {}
        self.seconds_saved = 0.0

    @contextmanager
    def of(self, press: BasePress | None) -> Iterator[None]:
        """Let a press, or the one that it wraps, reuse the scores of layers that were scored before."""
        scorer: Any = press
        while isinstance(getattr(scorer, "press", None), ScorerPress):
            scorer = scorer.press
        compute, self.seconds_saved = scorer.score, 0.0

        def score(module: models.Attention, hidden_states: torch.Tensor, *rest: Any) -> torch.Tensor:
            layer = module.layer_idx
            if layer in self._of_layer:
                scores, watch = self._of_layer[layer]
                self.seconds_saved += watch.seconds
                return scores.clone()
            watch = Stopwatch()
            with watch.span(hidden_states.device):
                scores = compute(module, hidden_states, *rest)
            self._of_layer[layer] = scores.clone(), watch
            return scores

        with swapped(scorer, score=score):
            yield
