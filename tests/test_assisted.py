"""Prompt lookup and assistant models give the tokens of plain decoding, after any press, in any cache."""

from __future__ import annotations

import pytest
import torch
from kvpress import (
    AdaKVPress,
    ComposedPress,
    DecodingPress,
    DMSPress,
    KeyRerotationPress,
    KnormPress,
    PrefillDecodingPress,
    PyramidKVPress,
    StreamingLLMPress,
)
from transformers import DynamicCache, GenerationMixin, LlamaConfig, LlamaForCausalLM

from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVCache, PiKVPress, models
from tests.conftest import SIZES

PRESSES = {
    "knorm": lambda: KnormPress(0.5),
    "streaming_llm": lambda: StreamingLLMPress(0.5),
    "adakv": lambda: AdaKVPress(KnormPress(0.5)),
    "moe": lambda: MoERouterPress(0.5, gates=None),
    "moe_adakv": lambda: MoERouterPress(0.2, gates=None, budgets="adakv"),
    "moe_pyramid": lambda: MoERouterPress(0.5, gates=None, budgets="pyramid"),
    "pyramidkv": lambda: PyramidKVPress(0.5, window_size=8),
    "composed": lambda: ComposedPress([KnormPress(0.3), MoERouterPress(0.4, gates=None)]),
    "rerotated": lambda: KeyRerotationPress(KnormPress(0.5)),
    "perlayer": lambda: PerLayerPress({1: KnormPress(0.5)}),
    "fastv": lambda: FastVPress(0.5, layer=0),
    "pikv": lambda: PiKVPress(0.8, gates=None),
}
CACHES = {"dynamic": DynamicCache, "pikv": PiKVCache, "pikv_int8": lambda: PiKVCache("int8", "int8", window=16)}


def make_model():
    """Return a tiny model whose heads are large enough for kvpress to find keys that several queries all ignore."""
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SIZES, head_dim=64)).eval()
    with torch.no_grad():
        for layer in models.attention_layers(model):
            layer.q_proj.weight.mul_(8)
            layer.k_proj.weight.mul_(8)
    model.generation_config.update(eos_token_id=511)  # prompt lookup needs one
    return model


@pytest.fixture(scope="module")
def llama():
    return make_model()


@pytest.fixture(scope="module")
def assistant(llama):
    """Return a model that often predicts the other's tokens correctly, and often does not."""
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.update(num_assistant_tokens=2, num_assistant_tokens_schedule="constant")
    return model


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(1, 500, (1, 30), generator=torch.Generator().manual_seed(3)).repeat(1, 4)


@torch.no_grad()
def generate(model, prompt, press, cache, **settings):
    with press(model):
        return model.generate(prompt, past_key_values=cache, max_new_tokens=100, do_sample=False, **settings)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("make", PRESSES.values(), ids=PRESSES)
def test_the_tokens_are_those_of_plain_decoding(llama, assistant, prompt, make, cache):
    if isinstance(make(), PiKVPress) and cache is DynamicCache:
        pytest.skip("PiKVPress stores bytes, which a DynamicCache cannot hold")
    plain = generate(llama, prompt, make(), cache())
    calls = []
    hook = llama.model.register_forward_hook(lambda *args: calls.append(1))
    for settings in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": assistant}):
        held = cache()
        assert torch.equal(generate(llama, prompt, make(), held, **settings), plain), settings
        assert "crop" not in vars(held) and "_get_candidate_generator" not in vars(llama)
    hook.remove()
    assert 2 < len(calls) < 200, "some candidates should be accepted, and some rejected"
    assert not llama._forward_pre_hooks and not models.presses_on(llama)


def test_a_cache_of_its_own_too(llama, prompt):
    plain = generate(llama, prompt, KnormPress(0.5), None)
    assert torch.equal(generate(llama, prompt, KnormPress(0.5), None, prompt_lookup_num_tokens=3), plain)


def test_without_a_press_it_is_transformers_own(llama, prompt, monkeypatch):
    ours = [
        llama.generate(prompt, past_key_values=cache(), max_new_tokens=30, do_sample=False, prompt_lookup_num_tokens=3)
        for cache in CACHES.values()
    ]
    monkeypatch.setattr(GenerationMixin, "_assisted_decoding", GenerationMixin._assisted_decoding.__wrapped__)
    theirs = llama.generate(prompt, max_new_tokens=30, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(ours[0], theirs) and torch.equal(ours[1], theirs)


def test_plans_do_not_take_candidates_for_context(llama, prompt):
    press = MoERouterPress(0.5, gates=None)
    generate(llama, prompt, press, PiKVCache(), prompt_lookup_num_tokens=3)
    assert press.plan.later_tokens == 0 and [layer.num_keys for layer in press.plan.layers] == [120, 120]


@pytest.mark.parametrize(
    ("press", "settings", "message"),
    [
        (DecodingPress(KnormPress(), 4, 60), {}, "DecodingPress removes entries during decoding, including candidates"),
        (PrefillDecodingPress(KnormPress(0.5), DecodingPress(KnormPress(), 4, 60)), {}, "PrefillDecodingPress removes"),
        (DMSPress(KnormPress(), threshold=-3.0, decoding=True), {}, "DMSPress removes entries during decoding"),
        (KnormPress(0.5), {"assistant_early_exit": 1}, "drafts with its own layers, on which KnormPress would act"),
    ],
)
def test_what_cannot_be_the_same_is_refused(llama, prompt, press, settings, message):
    cache = DynamicCache()
    with pytest.raises(ValueError, match=message):
        generate(llama, prompt, press, cache, **(settings or {"prompt_lookup_num_tokens": 3}))
    assert cache.get_seq_length() == 0


def test_a_model_that_assists_itself_is_refused(llama, prompt):
    with pytest.raises(ValueError, match="drafts with its own layers"):
        generate(llama, prompt, MoERouterPress(0.5, gates=None), DynamicCache(), assistant_model=llama)
