"""Attention over compressed stretches and a dense tail."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from kvpress import AdaKVPress, KnormPress
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVCache
from pikvpress.cache import reader
from pikvpress.kernels.ragged_attention import triton
from tests.cache.asking import read
from tests.conftest import make_tiny


@torch.no_grad()
@pytest.mark.parametrize("names", [("exact", "exact"), ("int3", "int4"), ("rank4", "int4")])
def test_kernels_read_what_the_definition_reads(names, llama, context, monkeypatch):
    """After masked entries, with a group that gets packed while decoding, in a copy."""

    def answers():
        cache = read(llama, context, PiKVCache(*names, window=1), AdaKVPress(KnormPress(0.5)))
        first = llama(input_ids=context[:, :65].flip(1), past_key_values=cache).logits
        assert names[1] == "exact" or cache.layers[0].entries.compressed.decoded is not None
        cache = deepcopy(cache)
        return torch.cat(
            [first, *(llama(input_ids=context[:, i : i + 1], past_key_values=cache).logits for i in (1, 2))], 1
        )

    expected = answers()
    monkeypatch.setattr(reader, "attend", triton.attend)
    torch.testing.assert_close(answers(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt_oss", "gemma2"])
def test_sinks_and_bounds_of_logits_count(name, context, monkeypatch):
    """Of a compressed layer, as if its removed entries were only masked."""
    model = make_tiny(name, attn_implementation="eager")

    def answers(cache):
        with MoERouterPress(0.5, budgets="adakv", gates=None)(model):
            model(context, past_key_values=cache)
        return model(context[:, :5].flip(1), past_key_values=cache).logits

    for layer in model.model.layers:
        if name == "gpt_oss":
            layer.self_attn.sinks.fill_(12.0)
        else:
            layer.self_attn.attn_logit_softcapping = 20.0  # so high that the masked keys of a DynamicCache stay hidden
            layer.self_attn.q_proj.weight.mul_(8)
    torch.testing.assert_close(answers(PiKVCache()), answers(DynamicCache()), atol=1e-5, rtol=1e-4)
    with monkeypatch.context() as patched:
        patched.setattr(reader, "_after_sinks", lambda output, log_sums, sinks: output)
        patched.setattr(reader, "attend_capped", lambda *args: reader.attend(*args[:-1]))
        assert not torch.allclose(answers(PiKVCache()), answers(DynamicCache()), atol=1e-3)
