import logging
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from pikvpress import FastVPress, MoERouterPress, PiKVCache, PiKVPress, available_experts, models
from pikvpress.routers import ROUTERS
from tests.conftest import CONFIGS, OTHERS, make_tiny
from tests.helpers import prefill
from tests.vision import VISION


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


# By the names of transformers: what the error of a press says, or None if it compresses the model.
WANTED = dict.fromkeys([*CONFIGS, *OTHERS, *VISION]) | {
    "cohere": "its rotary positions turn channels in another way",
    "deepseek_v3": "latent attention keep no keys per head",
    "gemma3n_text": "layer 1 reads keys of an earlier layer",
    "gpt2": "learned absolute positions",
    "qwen3_next": "layer 0 has no self-attention",
}
NEW = [name for name in OTHERS if WANTED[name] is None]
FULL = [name for name in OTHERS if name != "qwen3_next"]  # its layers of linear attention need a cache of their own


@pytest.fixture(scope="module")
def context():
    return torch.randint(1, 512, (1, 96), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def after(model, context, cache, press=None):
    """Return the logits of four tokens after a context."""
    with press(model) if press is not None else nullcontext():
        model(context, past_key_values=cache)
    positions = torch.arange(96, 100)[None]
    return model(context[:, :4].flip(1), position_ids=positions, past_key_values=cache).logits


@pytest.mark.parametrize("name", FULL)
def test_without_a_press_a_pikv_cache_is_a_dynamic_one_to_the_bit(name, context):
    model = make_tiny(name)
    expected, found = (after(model, context, cache) for cache in (DynamicCache(), PiKVCache()))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NEW)
def test_bytes_fall_and_the_rest_is_read_as_the_model_would(name, attention, context):
    """Of removed entries, a DynamicCache keeps the bytes and masks them, as kvpress does."""
    if name == "gpt_oss" and attention == "sdpa":
        pytest.skip("GPT-OSS has no sdpa attention in transformers")
    model = make_tiny(name, attn_implementation=attention)
    caches = DynamicCache(), PiKVCache(), PiKVCache(), PiKVCache()
    presses = [MoERouterPress(0.5, gates=None, budgets="adakv")] * 2
    presses += [MoERouterPress(0.5, gates=None), PiKVPress(0.75, gates=None)]
    logits = [after(model, context, cache, press) for cache, press in zip(caches, presses, strict=True)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=1e-4)
    for press in presses:
        stats = press.get_stats()
        left = 0.25 if isinstance(press, PiKVPress) else 0.5
        layers = [layer for layer in models.attention_layers(model) if not models.is_sliding(layer)]
        assert len(stats["layer_stats"]) == len(layers) > 0
        assert stats["bytes_after"] <= left * stats["bytes_before"]
    full = sum(layer.keys.nbytes + layer.values.nbytes for layer in caches[0].layers)
    assert all(cache.nbytes < full for cache in caches[1:])


@pytest.mark.parametrize("name", NEW)
def test_half_precision_is_compressed_and_generates(name, context):
    model, cache = make_tiny(name, dtype=torch.bfloat16), PiKVCache()
    with MoERouterPress(0.5, gates=None)(model):
        output = model.generate(context, past_key_values=cache, max_new_tokens=3, do_sample=False)
    assert output.shape == (1, 99)
    assert min(min(row) for layer in cache.layers for row in layer.counts()) == 48 + 2


@pytest.mark.parametrize("name", [name for name, reason in WANTED.items() if reason])
def test_other_architectures_are_refused_in_a_sentence_and_not_touched(name):
    model = make_tiny(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for press in (MoERouterPress(0.5, gates=None), PiKVPress(0.5, gates=None), FastVPress(0.5, layer=0)):
        with pytest.raises(ValueError, match=WANTED[name]) as caught, press(model):
            pytest.fail("the model was touched")
        assert "cannot be compressed" in str(caught.value) and "\n" not in str(caught.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(hasattr(layer, "rotary_emb") for layer in model.modules() if hasattr(layer, "q_proj"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_of_windows_only_has_nothing_to_compress():
    model = make_tiny("gemma3")
    for layer in model.model.layers:
        layer.self_attn.is_sliding = True
    with pytest.raises(ValueError, match="all its layers see only the latest tokens"), MoERouterPress(0.5)(model):
        pytest.fail("the model was touched")


def test_the_page_lists_what_is_tested_here():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    rows = re.findall(r"^\| [^|`]+ \| (`.+?`) \| (yes|no)[^|]* \|", page, flags=re.MULTILINE)
    listed = {name: answer == "yes" for names, answer in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {name: reason is None for name, reason in WANTED.items() if name not in ("phi4",)}
