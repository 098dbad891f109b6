"""Through a LayerView, kvpress scorers give the same as on the module, with one projection of the hidden states."""

from unittest.mock import patch

import pytest
import torch
from kvpress import ExpectedAttentionPress, SnapKVPress
from transformers import DynamicCache

from pikvpress import models
from pikvpress.experts import LayerInput, LayerView, available_experts, make_experts
from tests.conftest import make_tiny


def call_of(model, ids, layer=1):
    """Return the arguments of a press in a layer: module, hidden states, keys, values, attentions, kwargs."""
    calls = {}

    def remember(module, args, kwargs, output):
        calls[module.layer_idx] = (module, kwargs, output[1])

    decoder = models.language_model(model)
    handles = [layer.self_attn.register_forward_hook(remember, with_kwargs=True) for layer in decoder.layers]
    for block in decoder.layers:
        block.self_attn.rotary_emb = decoder.rotary_emb
    cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    for handle in handles:
        handle.remove()
    module, kwargs, attentions = calls[layer]
    keys, values = cache.layers[layer].keys, cache.layers[layer].values
    return module, kwargs["hidden_states"], keys, values, attentions, kwargs


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("name", available_experts())
def test_scores_are_those_of_kvpress(architecture, name, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    press = make_experts([name], None)[0].press
    press.compression_ratio = 0.5
    with torch.no_grad():
        torch.manual_seed(0)
        direct = press.score(module, hidden, *rest)
        torch.manual_seed(0)
        seen = press.score(LayerView(module, hidden), hidden, *rest)
    torch.testing.assert_close(seen, direct)


def test_norms_that_kvpress_skips_are_applied(ids):
    module, hidden, keys, _values, _, kwargs = call_of(make_tiny("qwen3_moe"), ids)
    with torch.no_grad():
        cos, sin = kwargs["position_embeddings"]
        flat = module.q_proj(hidden[:, -64:]).unflatten(-1, (-1, module.head_dim))
        queries = models.rotate(module.q_norm(flat).transpose(1, 2), cos[:, -64:], sin[:, -64:])
        logits = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3) * module.scaling
        later = torch.ones(64, 300, dtype=torch.bool).triu(300 - 64 + 1)
        attention = logits.masked_fill(later, -torch.inf).softmax(dim=-1)[..., :-64]
        arguments = (hidden, keys, 64, kwargs["position_embeddings"])
        seen = SnapKVPress.compute_window_attention(LayerView(module, hidden), *arguments)
        skipped = SnapKVPress.compute_window_attention(module, *arguments)
    torch.testing.assert_close(seen, attention)
    assert (skipped - attention).abs().max() > 1e-3


def test_expected_attention_works_on_gemma3(ids):
    module, hidden, *rest = call_of(make_tiny("gemma3"), ids)
    with torch.no_grad():
        scores = ExpectedAttentionPress(0.5).score(LayerView(module, hidden), hidden, *rest)
    assert scores.shape == (1, 2, 300) and scores.isfinite().all()


def test_all_experts_together_project_the_context_once(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    module = layer.module
    projected = {"q_proj": 0, "k_proj": 0}

    def counting(name, original):
        def forward(states):
            projected[name] += states.shape[1]
            return original(states)

        return forward

    with (
        torch.no_grad(),
        patch.object(module.q_proj, "forward", counting("q_proj", module.q_proj.forward)),
        patch.object(module.k_proj, "forward", counting("k_proj", module.k_proj.forward)),
    ):
        for expert in make_experts(None, len(available_experts())):
            expert.score(layer, 0.5)
    assert projected == {"q_proj": 300, "k_proj": 300}


def test_rows_of_other_tensors_are_projected_by_themselves(llama):
    module = llama.model.layers[0].self_attn
    hidden = torch.randn(1, 20, 64)
    other = torch.randn(1, 10, 64)
    strided = hidden[:, ::2]
    view = LayerView(module, hidden)
    with torch.no_grad():
        view.q_proj(hidden)
        for states in (other, strided, hidden[:, 3:7], hidden.clone()):
            torch.testing.assert_close(view.q_proj(states), module.q_proj(states))
