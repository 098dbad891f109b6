"""Fewer entries from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pikvpress.budgets.budget import Budget, ModelShape
from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.budgets.pyramid_counts import pyramid_counts
from pikvpress.budgets.tokens_kept import tokens_kept
from pikvpress.gates import Gates

STEEPNESS = 0.95  # PyramidKV's β of 20


class PyramidBudget(Budget):
    """The same number for every head of a layer, and fewer in each layer than in the previous one (PyramidKV)."""

    needs_shape: ClassVar[bool] = True
    leaves_rows: ClassVar[bool] = True
    uneven_layers: ClassVar[bool] = True

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        assert shape is not None
        self._layers = shape.compressed

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what this layer keeps."""
        num_keys = layer.scores.shape[2]
        counts = pyramid_counts(len(self._layers), num_keys, tokens_kept(num_keys, ratio), STEEPNESS)
        return [Decision(layer, counts[self._layers.index(layer.index)])]
