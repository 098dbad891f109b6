"""Budgets from the error curves of gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from kvpress.utils import compute_n_kept

from pikvpress.budgets.budget import Budget, ModelShape
from pikvpress.budgets.curves import counts_by_curves
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.gates import Gates
from pikvpress.kernels.compact import highest


class FittedBudget(Budget):
    """Tokens go to the heads, of all layers, in which they reduce the error most according to the curves."""

    needs_curves: ClassVar[str] = "curves"

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        assert gates is not None
        self._gates = gates
        self._counts: dict[tuple[float, int], torch.Tensor] = {}

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        num_keys = layer.scores.shape[2]
        if (ratio, num_keys) not in self._counts:
            num_kept = compute_n_kept(num_keys, ratio)
            self._counts = {(ratio, num_keys): counts_by_curves(self._gates, ratio, num_keys, num_kept)}
        counts = layer.shard.cut(self._counts[ratio, num_keys][layer.index], 0)
        return [Decision(layer, highest(layer.scores, counts.to(layer.scores.device)))]
