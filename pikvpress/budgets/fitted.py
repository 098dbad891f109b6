"""Budgets from the error curves of gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from pikvpress.budgets.budget import Budget, KeptByContext, ModelShape
from pikvpress.budgets.curves import counts_by_curves
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.tokens_kept import tokens_kept
from pikvpress.gates import Gates
from pikvpress.kernels.compact import highest


class FittedBudget(Budget):
    """Tokens go to the heads, of all layers, in which they reduce the error most according to the curves."""

    needs_curves: ClassVar[str] = "curves"

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        assert gates is not None
        self._gates = gates
        self._counts = KeptByContext(self._counts_of)

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        counts = layer.shard.cut(self._counts(ratio, layer.scores.shape[2])[layer.index], 0)
        return [Decision(layer, highest(layer.scores, counts.to(layer.scores.device)))]

    def _counts_of(self, ratio: float, num_keys: int) -> torch.Tensor:
        return counts_by_curves(self._gates, ratio, num_keys, tokens_kept(num_keys, ratio))
