"""Queries from the context, moved to positions after it."""

from __future__ import annotations

import torch

from pikvpress import models
from pikvpress.experts import LayerInput
from pikvpress.experts.probes import probe_queries
from tests.experts.test_layer_view import call_of


def test_they_are_spread_and_recent_ones_rotated_to_positions_after_the_context(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    with torch.no_grad():
        found = probe_queries(layer.view, layer.hidden_states, layer.keys, layer.kwargs, 10, 4)
        rows = [*(i * 296 // 10 for i in range(10)), *range(296, 300)]
        flat = layer.module.q_proj(layer.hidden_states)[:, rows].unflatten(-1, (-1, 16)).transpose(1, 2)
        cos, sin = layer.view.rotary_emb(flat, torch.arange(300, 314)[None])
        torch.testing.assert_close(found, models.rotate(flat, cos, sin))


def test_short_contexts_give_all_that_they_have(llama, ids):
    layer = LayerInput(*call_of(llama, ids[:, :5]))
    with torch.no_grad():
        assert probe_queries(layer.view, layer.hidden_states, layer.keys, layer.kwargs, 10, 4).shape[2] == 5
        assert probe_queries(layer.view, layer.hidden_states, layer.keys, layer.kwargs, 10, 9).shape[2] == 5
