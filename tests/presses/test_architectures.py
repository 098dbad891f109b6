import logging

import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from pikvpress import MoERouterPress, available_experts, models
from pikvpress.routers import ROUTERS
from tests.conftest import CONFIGS, make_tiny
from tests.helpers import prefill


def lengths(cache):
    return [layer.keys.shape[2] for layer in cache.layers]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma3"])
def test_every_architecture_is_compressed_and_decoded(name, attention, ids):
    model = make_tiny(name, attn_implementation=attention)
    press = MoERouterPress(0.5)
    assert lengths(prefill(model, ids, press)) == [150, 150]
    with press(model):
        output = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert output.shape == (1, 304)


@pytest.mark.parametrize("name", ["gemma3", "gemma3_vision"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_layers_are_left_alone(name, attention, ids):
    model = make_tiny(name, attn_implementation=attention)
    full, cache = prefill(model, ids), prefill(model, ids, MoERouterPress(0.5))
    assert lengths(cache) == [300, 150]
    assert torch.equal(cache.layers[0].keys, full.layers[0].keys)


def test_sliding_caches_are_left_alone_with_a_warning_and_others_are_not(ids, caplog):
    logging.Logger.warning_once.cache_clear()
    model = make_tiny("mistral")
    model.config.sliding_window = 4096
    sliding = DynamicCache(config=model.config)
    with caplog.at_level(logging.WARNING, logger="pikvpress"), MoERouterPress(0.5)(model), torch.no_grad():
        model(ids, past_key_values=sliding)
    assert "pass past_key_values=DynamicCache()" in caplog.text
    assert lengths(sliding) == [300, 300]
    assert lengths(prefill(model, ids, MoERouterPress(0.5))) == [150, 150]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3"])
def test_every_expert_and_router_runs_in_every_dtype(name, dtype, ids):
    model = make_tiny(name, dtype=dtype)
    for router in ROUTERS:
        press = MoERouterPress(0.5, router_type=router, num_experts=len(available_experts()), top_k=4)
        cache = prefill(model, ids, press)
        assert lengths(cache)[1] == 150
        assert cache.layers[1].keys.dtype == dtype


def test_norms_of_qwen3_moe_change_the_scores(ids):
    model = make_tiny("qwen3_moe")
    with_norms = prefill(model, ids, MoERouterPress(0.5, experts=["snapkv"]))
    for layer in models.language_model(model).layers:  # queries and keys scaled alike in both runs
        layer.self_attn.q_norm.weight.data *= torch.linspace(0.1, 3, 16)
    changed = prefill(model, ids, MoERouterPress(0.5, experts=["snapkv"]))
    assert not torch.equal(with_norms.layers[0].values, changed.layers[0].values)


def test_gpt2_is_refused_before_it_is_touched(ids):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=512))
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be compressed"), MoERouterPress(0.5)(model):
        pytest.fail("the model was touched")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_batches_are_refused_and_unpadded_ones_are_not(attention):
    model = make_tiny(attn_implementation=attention)
    ids = torch.randint(1, 512, (2, 100), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    with MoERouterPress(0.5)(model), torch.no_grad():
        model(ids, attention_mask=mask)
        mask[0, :10] = 0
        with pytest.raises(ValueError, match=r"the batch is padded.*equal length"):
            model(ids, attention_mask=mask)
    assert not any(layer.self_attn._forward_hooks for layer in model.model.layers)
