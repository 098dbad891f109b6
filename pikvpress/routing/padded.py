"""Decisions on padded batches: each row is decided as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.budgets import Decision, ScoredLayer
from pikvpress.experts import BatchRow, LayerInput, joined


def joined_decision(layer: LayerInput, rows: Sequence[BatchRow], decisions: Sequence[Decision]) -> Decision:
    """Return one decision for a layer of a padded batch, which removes all padding.

    Parameters
    ----------
    layer : LayerInput
        The layer with all rows.
    rows : sequence of BatchRow
        Its rows.
    decisions : sequence of Decision
        One for each row. If they have codecs, those of the result are by row, then by head.
    """
    batch, heads, length, _ = layer.keys.shape
    kept = joined(rows, [decision.mask() for decision in decisions], (batch, heads, length))
    scores = torch.full((batch, heads, length), -torch.inf, device=layer.keys.device)
    values = layer.values
    if any(decision.layer.values is not row.layer.values for row, decision in zip(rows, decisions, strict=True)):
        values = values.clone()  # refitted
        for row, decision in zip(rows, decisions, strict=True):
            values[row.index, :, row.tokens] = decision.layer.values[0]
    for row, decision in zip(rows, decisions, strict=True):
        scores[row.index, :, row.tokens] = decision.layer.scores[0]
    weights = torch.cat([decision.layer.weights for decision in decisions])
    codecs = [codec for decision in decisions for codec in decision.codecs or ()]
    return Decision(ScoredLayer(layer.module, layer.keys, values, scores, weights), kept, codecs or None)
