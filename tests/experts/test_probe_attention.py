"""The attention that probe queries pay."""

from __future__ import annotations

import torch

from pikvpress.experts import ProbeAttentionPress
from pikvpress.experts.layer_input import LayerInput
from pikvpress.experts.probes import probe_queries
from tests.experts.test_layer_view import call_of


def test_a_score_is_the_geometric_mean_of_mean_and_largest_attention(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    with torch.no_grad():
        found = ProbeAttentionPress(0.5, num_probes=64).score(*call_of(llama, ids))
        probes = probe_queries(layer.view, layer.hidden_states, layer.keys, layer.kwargs, 60, 4)
        logits = probes.unflatten(1, (2, -1)) @ layer.keys.unsqueeze(2).transpose(3, 4) * layer.module.scaling
        paid = logits.softmax(dim=-1).flatten(2, 3)
    torch.testing.assert_close(found, (paid.mean(dim=2) * paid.amax(dim=2)).sqrt(), atol=1e-6, rtol=1e-4)
