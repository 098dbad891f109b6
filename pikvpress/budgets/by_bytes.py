"""Budgets in bytes: tokens and codecs of each head, see `pikvpress.budgets.spending`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pikvpress.budgets.budget import Budget, KeptByContext, ModelShape
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.spending import Heads, Spending, spend_fitted, spend_uniform
from pikvpress.gates import Gates
from pikvpress.kernels.compact import highest


class UniformBytes(Budget):
    """The same in every head, with the smallest total error according to the gates, if there are any with curves."""

    needs_shape: ClassVar[bool] = True

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        assert shape is not None
        self._gates, self._shape = gates, shape
        self._spent = KeptByContext(self._spending)

    def share_removed(self, ratio: float, num_keys: int) -> float:
        """Return the share of tokens that do not fit into the budget."""
        if ratio == 0:
            return 0.0
        kept = self._spent(ratio, num_keys).counts[list(self._shape.compressed)].float().mean() / num_keys
        return float(1 - kept)

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        spending = self._spent(ratio, layer.scores.shape[2])
        counts = layer.shard.cut(spending.counts[layer.index], 0).to(layer.scores.device)
        return [Decision(layer, highest(layer.scores, counts), layer.shard.own(spending.codecs[layer.index]))]

    def _spending(self, ratio: float, num_keys: int) -> Spending:
        """Return the tokens and codecs that fit into the budget for a context of this length."""
        shape = self._shape
        return self._spend(Heads(shape.layers, shape.heads, shape.head_dim, num_keys, shape.dtype), ratio)

    def _spend(self, heads: Heads, ratio: float) -> Spending:
        return spend_uniform(heads, ratio, self._shape.compressed, self._gates)


class FittedBytes(UniformBytes):
    """Bytes go where they reduce the error most, according to the error curves of the gates."""

    needs_curves: ClassVar[str] = "codec_curves"

    def _spend(self, heads: Heads, ratio: float) -> Spending:
        assert self._gates is not None
        return spend_fitted(self._gates, heads, ratio, self._shape.compressed)
