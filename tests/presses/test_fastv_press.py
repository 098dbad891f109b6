"""FastV: one layer decides for the layers after it."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pikvpress import FastVPress
from tests.conftest import SIZES
from tests.helpers import prefill


@pytest.fixture
def deep():
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(LlamaConfig(**SIZES | {"num_hidden_layers": 4})).eval()


def attention_received(model, ids, layer):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions[layer]
    model.set_attn_implementation("sdpa")
    seen_by = torch.arange(ids.shape[1], 0, -1)
    return weights.mean(dim=1).sum(dim=1) / seen_by


def test_later_layers_keep_what_an_early_one_attends_to(deep, ids):
    full, cache = prefill(deep, ids), prefill(deep, ids, FastVPress(0.5, layer=1, window_size=300))
    assert [layer.keys.shape[2] for layer in cache.layers] == [300, 300, 150, 150]
    expected = attention_received(deep, ids, 1)[0].topk(150).indices.sort().values
    for index in (2, 3):
        assert torch.equal(cache.layers[index].values, full.layers[index].values[:, :, expected])


def test_only_chosen_positions_go(deep, ids):
    full, cache = prefill(deep, ids), prefill(deep, ids, FastVPress(0.75, layer=0, positions=(50, 150)))
    for index in (1, 2, 3):
        ours, theirs = cache.layers[index].values, full.layers[index].values
        assert ours.shape[2] == 225
        assert torch.equal(ours[:, :, :50], theirs[:, :, :50])
        assert torch.equal(ours[:, :, -150:], theirs[:, :, -150:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compression_ratio": 1.0}, "compression_ratio"),
        ({"layer": -1}, "layer must be at least 0"),
        ({"positions": (5, 5)}, "a start and a larger end"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FastVPress(**settings)


def test_what_the_model_or_context_lacks(deep, ids):
    with pytest.raises(ValueError, match="layer=3 of 4 has no layers after it"):
        prefill(deep, ids, FastVPress(0.5, layer=3))
    with pytest.raises(ValueError, match="but the context has 300 tokens"):
        prefill(deep, ids, FastVPress(0.5, positions=(0, 400)))
    assert not any(layer.self_attn._forward_hooks for layer in deep.model.layers)
