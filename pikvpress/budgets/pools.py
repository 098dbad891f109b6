"""Budgets from the scores themselves, in a pool of the heads of one layer or of all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from pikvpress.budgets.budget import Budget, ModelShape
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.pooled import pooled
from pikvpress.budgets.tokens_kept import tokens_kept
from pikvpress.gates import Gates


class LayerPoolBudget(Budget):
    """One pool for the heads of a layer, with AdaKV's floor."""

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        of_all = layer.shard.gathered(layer.scores, 1)
        (kept,) = pooled([of_all], tokens_kept(layer.scores.shape[2], ratio))
        return [Decision(layer, layer.shard.cut(kept, 1))]


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
        scores = [one.scores for one in self._scored]
        if not layer.shard.is_whole:  # all layers in one message
            scores = [*layer.shard.gathered(torch.stack(scores, dim=2), 1).unbind(dim=2)]
        kept = pooled(scores, tokens_kept(layer.scores.shape[2], ratio))
        decisions = [Decision(one, one.shard.cut(stay, 1)) for one, stay in zip(self._scored, kept, strict=True)]
        self._scored.clear()
        return decisions
