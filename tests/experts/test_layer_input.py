"""What a layer passes to those that score it."""

from __future__ import annotations

import torch

from pikvpress.experts import LayerInput
from tests.experts.test_layer_view import call_of


def test_it_knows_its_layer_and_shares_one_view(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    assert layer.index == 1 and layer.num_keys == ids.shape[1]
    assert layer.view is layer.view and set(layer.tensors) == {"hidden states", "keys", "values"}


def test_projections_that_are_known_are_not_made_again(llama, ids):
    module, hidden, *rest = call_of(llama, ids)
    known = torch.zeros(1, ids.shape[1], 64)
    layer = LayerInput(module, hidden, *rest, outputs={"q_proj": known})
    assert torch.equal(layer.view.q_proj(hidden), known)
