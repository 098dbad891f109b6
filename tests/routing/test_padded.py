"""One decision from those on the rows of a padded batch."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from pikvpress.budgets import Decision, ScoredLayer
from pikvpress.experts import BatchRow
from pikvpress.routing import joined_decision

MODULE = SimpleNamespace(layer_idx=0)


def test_rows_are_put_in_their_places():
    states = torch.arange(2 * 1 * 3 * 2.0).view(2, 1, 3, 2)
    layer = SimpleNamespace(module=MODULE, keys=states, values=states)
    first = SimpleNamespace(keys=states[:1, :, 1:], values=states[:1, :, 1:])
    second = SimpleNamespace(keys=states[1:], values=states[1:])
    rows = [BatchRow(0, slice(1, 3), first), BatchRow(1, slice(0, 3), second)]
    scores = [torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]])]
    weights = torch.ones(1, 1, 1)
    refitted = first.values + 100
    decisions = [
        Decision(ScoredLayer(MODULE, first.keys, refitted, scores[0], weights), 1, [("int8", "int4")]),
        Decision(ScoredLayer(MODULE, second.keys, second.values, scores[1], weights), 2, [("int4", "int4")]),
    ]
    decision = joined_decision(layer, rows, decisions)
    assert decision.mask().tolist() == [[[False, True, False]], [[False, True, True]]]
    assert decision.layer.scores.tolist() == [[[-torch.inf, 2, 1]], [[1, 3, 2]]]
    assert torch.equal(decision.layer.values[0, :, 1:], refitted[0]) and torch.equal(
        decision.layer.values[1], states[1]
    )
    assert torch.equal(decision.layer.values[0, :, 0], states[0, :, 0]) and decision.layer.weights.shape == (2, 1, 1)
    assert decision.codecs == [("int8", "int4"), ("int4", "int4")] and decision.head_codecs() == [("int8/int4", "int4")]
    assert decision.head_tokens() == [2]
