"""Every attention function that a model can use reads a PiKVCache, and respects masks in other caches."""

from __future__ import annotations

import sys

import pytest
import torch
from kvpress import AdaKVPress, KnormPress, KVComposePress
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from pikvpress import MoERouterPress, PiKVCache
from tests.cache.asking import CONTEXT, ask, read, token
from tests.conftest import CONFIGS, make_tiny


@pytest.mark.parametrize("structured", [True, False])
def test_kvcompose_twice_in_a_row(llama, context, structured):
    """It switches to eager attention itself, while it reads."""
    answers = []
    for _ in range(2):
        cache = read(llama, context, PiKVCache(), KVComposePress(structured=structured, compression_ratio=0.5))
        answers.append(token(llama, cache, 2 * CONTEXT))
        assert llama.config._attn_implementation == "sdpa"
    assert torch.equal(*answers)


@pytest.mark.parametrize("budgets", ["adakv", "global"])
def test_masks_are_heeded_in_eager_attention_too(llama, context, budgets):
    press = MoERouterPress(0.5, gates=None, budgets=budgets)
    answers = []
    for mode in ("sdpa", "eager"):
        llama.set_attn_implementation(mode)
        answers += [token(llama, read(llama, context, cache(), press)) for cache in (DynamicCache, PiKVCache)]
    llama.set_attn_implementation("eager")
    whole = token(llama, read(llama, context, DynamicCache()))
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], atol=1e-4, rtol=1e-4)
    assert (answers[0] - whole).abs().max() > 1e-2


def test_the_eager_function_is_the_one_that_the_model_passes(llama, context, monkeypatch):
    """Some models have several in one file, under other names."""
    file = sys.modules[type(llama.model.layers[0].self_attn).__module__]
    calls = []

    def of_another_name(*args, **kwargs):
        calls.append(args[0].layer_idx)
        return own(*args, **kwargs)

    own = file.eager_attention_forward
    look_up = AttentionInterface.get_interface
    monkeypatch.setattr(
        AttentionInterface, "get_interface", lambda self, name, default: look_up(self, name, of_another_name)
    )
    llama.set_attn_implementation("eager")
    cache = read(llama, context, PiKVCache(), KnormPress(0.5))
    assert calls == [0, 1] and token(llama, cache).isfinite().all()


def test_models_that_do_not_look_their_attention_up(llama, context, question, monkeypatch):
    """As custom models may do, and all models in eager mode before transformers 5."""
    cache = read(llama, context, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    monkeypatch.setattr(AttentionInterface, "get_interface", lambda *args: eager_attention_forward)
    with pytest.raises(ValueError, match="the model must look up its attention function through transformers"):
        ask(llama, question, cache)
    with pytest.raises(ValueError, match="needs an attention function that the model looks up through transformers"):
        read(llama, context, PiKVCache("int4", "int4"))


def test_attention_functions_registered_later_read_it_too(llama, context, question, monkeypatch):
    expected = ask(llama, question, read(llama, context, PiKVCache("int8", "int4"), AdaKVPress(KnormPress(0.5))))
    monkeypatch.setitem(AttentionInterface._global_mapping, "registered_later", sdpa_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "registered_later", sdpa_mask)
    llama.set_attn_implementation("registered_later")
    cache = read(llama, context, PiKVCache("int8", "int4"), AdaKVPress(KnormPress(0.5)))
    torch.testing.assert_close(ask(llama, question, cache), expected)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_eager_attention_reads_it_too(architecture, context, question):
    model = make_tiny(architecture)
    caches = [read(model, context, PiKVCache("int8", "int8", window=20))]
    model.set_attn_implementation("eager")
    caches.append(read(model, context, PiKVCache("int8", "int8", window=20)))
    exact = read(model, context, PiKVCache())
    eager, plain = ask(model, question, caches[1]), ask(model, question, exact)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(eager, ask(model, question, caches[0]), atol=1e-2, rtol=1e-2)  # codes may flip
    torch.testing.assert_close(plain, ask(model, question, read(model, context, DynamicCache())), atol=1e-4, rtol=1e-4)
