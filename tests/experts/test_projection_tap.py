"""Projections computed by a layer are reused, once."""

from __future__ import annotations

import torch

from pikvpress.experts.projection_tap import ProjectionTap
from tests.experts.test_layer_view import call_of


def test_the_latest_outputs_are_given_out_once_and_for_their_input_alone(llama, ids):
    module, hidden, *_ = call_of(llama, ids)
    tap = ProjectionTap()
    with tap.on(llama), torch.no_grad():
        queries = module.q_proj(hidden)
        module.k_proj(hidden)
        assert tap.take(hidden.clone()) == {}
        assert tap.take(hidden) == {}  # what is not taken immediately is discarded
        queries = module.q_proj(hidden)
        keys = module.k_proj(hidden)
        taken = tap.take(hidden)
        assert torch.equal(taken["q_proj"], queries) and torch.equal(taken["k_proj"], keys)
        module.q_proj(hidden)
        module.q_proj(hidden[:, :3])
        assert tap.take(hidden) == {}
    module.q_proj(hidden)
    assert tap.take(hidden) == {} and not module.q_proj._forward_hooks
