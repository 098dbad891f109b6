"""Budgets from the scores themselves, in a pool of the heads of one layer or of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kvpress.utils import compute_n_kept

from pikvpress.budgets.budget import Budget, ModelShape
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.pooled import pooled
from pikvpress.gates import Gates


class LayerPoolBudget(Budget):
    """One pool for the heads of a layer, with AdaKV's floor."""

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        (kept,) = pooled([layer.scores], compute_n_kept(layer.scores.shape[2], ratio))
        return [Decision(layer, kept)]


class ModelPoolBudget(Budget):
    """One pool for the heads of all layers, decided after the last layer."""

    needs_shape: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        assert shape is not None
        self._last = shape.compressed[-1]
        self._scored: list[ScoredLayer] = []

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what all layers keep if this is the last layer, otherwise nothing."""
        if self._scored and layer.index <= self._scored[-1].index:  # left over from an interrupted forward
            self._scored.clear()
        self._scored.append(layer)
        if layer.index != self._last:
            return []
        kept = pooled([one.scores for one in self._scored], compute_n_kept(layer.scores.shape[2], ratio))
        decisions = [Decision(one, stay) for one, stay in zip(self._scored, kept, strict=True)]
        self._scored.clear()
        return decisions
