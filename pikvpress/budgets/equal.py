"""The same number of entries for every head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pikvpress.budgets.budget import Budget
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.tokens_kept import tokens_kept


class EqualBudget(Budget):
    """Every head keeps max(1, floor(n · (1 - ratio))) of its n keys, as in kvpress."""

    leaves_rows: ClassVar[bool] = True

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        return [Decision(layer, tokens_kept(layer.scores.shape[2], ratio))]
