"""Reference queries from the context and from calibration."""

from __future__ import annotations

import torch

from pikvpress import models
from pikvpress.experts import LayerInput
from pikvpress.refit.references import references
from tests.experts.test_layer_view import call_of


def test_those_of_the_context_come_first_and_all_are_rotated_to_positions_after_it(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    heads = layer.module.config.num_attention_heads
    bank = torch.randn(heads, 5, 16, generator=torch.Generator().manual_seed(0)).half()
    with torch.no_grad():
        found = references(layer, bank, own=10)
        own = references(layer, None, own=10)
        cos, sin = layer.view.rotary_emb(found, torch.arange(300, 305)[None])
    assert found.shape == (1, heads, 15, 16) and found.dtype == torch.float32
    assert torch.equal(found[:, :, :10], own)
    torch.testing.assert_close(found[:, :, 10:], models.rotate(bank[None].float(), cos, sin))


def test_a_short_context_gives_what_it_has(llama, ids):
    layer = LayerInput(*call_of(llama, ids[:, :6]))
    with torch.no_grad():
        assert references(layer, None, own=10).shape[2] == 6
