"""The saliency expert on keys and values."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress import saliency_features as module
from pikvpress.experts import SaliencyScorer, available_experts, make_experts
from pikvpress.saliency_features import num_features, positions_of, saliency_features
from tests.helpers import prefill

TOKENS = 90


@pytest.fixture
def weights():
    return torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(0))


def test_hidden_states_are_used_where_every_key_has_one(weights, ids, llama):
    hidden_weights = torch.randn(2, 2, num_features(16) + 64, generator=torch.Generator().manual_seed(3))
    press, states = SaliencyScorer(0.5, weights, hidden_weights), []
    attention = models.attention_layers(llama)[1]
    handle = attention.register_forward_hook(
        lambda layer, args, kwargs, output: states.append(kwargs["hidden_states"]), with_kwargs=True
    )
    layer = prefill(llama, ids[:, :TOKENS]).layers[1]
    handle.remove()
    with models.rotary_at_hand(llama):
        features = saliency_features(layer.keys, layer.values, *positions_of(attention, layer.keys, {}))
        hidden = states[0] / states[0].square().mean(dim=-1, keepdim=True).sqrt()
        whole = torch.cat([features, hidden.unsqueeze(1).expand(-1, 2, -1, -1)], dim=-1)
        found = press.score(attention, states[0], layer.keys, layer.values, None, {})
        torch.testing.assert_close(found, (whole @ hidden_weights[1].unsqueeze(-1)).squeeze(-1), atol=1e-4, rtol=1e-4)
        for fewer in (None, states[0][:, 1:]):
            found = press.score(attention, fewer, layer.keys, layer.values, None, {})
            torch.testing.assert_close(found, (features @ weights[1].unsqueeze(-1)).squeeze(-1), atol=1e-4, rtol=1e-4)


def test_long_contexts_are_scored_in_blocks(weights, ids, llama, monkeypatch):
    whole = SaliencyScorer(0.5, weights)
    layer = prefill(llama, ids[:, :TOKENS]).layers[0]
    with models.rotary_at_hand(llama):
        scores = [whole.score(models.attention_layers(llama)[0], None, layer.keys, layer.values, None, {})]
        monkeypatch.setattr(module, "BLOCK", 17)
        scores.append(whole.score(models.attention_layers(llama)[0], None, layer.keys, layer.values, None, {}))
    torch.testing.assert_close(*scores)


def test_half_precision_is_scored_in_full(weights, llama, ids):
    layer = prefill(llama, ids[:, :TOKENS]).layers[0]
    press, attention = SaliencyScorer(0.5, weights), models.attention_layers(llama)[0]
    with models.rotary_at_hand(llama):
        full = press.score(attention, None, layer.keys, layer.values, None, {})
        half = press.score(attention, None, layer.keys.bfloat16(), layer.values.bfloat16(), None, {})
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.3, rtol=0.05)


def test_without_weights_it_says_where_they_come_from(ids, llama):
    assert "saliency" not in available_experts()
    (expert,) = make_experts(["saliency"], None)
    assert expert.positional and type(expert.press) is SaliencyScorer
    layer = prefill(llama, ids).layers[0]
    with pytest.raises(ValueError, match="saliency is fitted by calibration and has no weights"):
        expert.press.score(models.attention_layers(llama)[0], None, layer.keys, layer.values, None, {})
    press = MoERouterPress(0.5, experts=["saliency", "keydiff"], gates=None)
    with pytest.raises(ValueError, match="expert 'saliency' is fitted by calibration and there are no gates"):
        prefill(llama, ids, press)
    assert not any(layer._forward_hooks for layer in models.attention_layers(llama))
