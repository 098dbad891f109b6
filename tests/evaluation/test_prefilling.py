"""Reading a context, and what is available meanwhile."""

from __future__ import annotations

from transformers import AutoTokenizer, DynamicCache

from evaluation.compressors import PrefilledContext
from evaluation.prefilling import prefill, tokenizer_by_name
from evaluation.presses import parse_press
from pikvpress import models


def test_a_prefill_fills_the_cache(tiny, random_context):
    cache = DynamicCache()
    prefill(tiny, random_context, cache)
    assert cache.get_seq_length() == 300


def test_the_model_is_left_as_it_was(tiny, random_context):
    layers = models.attention_layers(tiny)
    for layer in layers:
        if hasattr(layer, "rotary_emb"):
            del layer.rotary_emb
    PrefilledContext(tiny, random_context).compress(parse_press("adakv_knorm").make(0.5))
    assert not any(hasattr(layer, "rotary_emb") for layer in layers)
    assert all(layer.masked_key_indices is None for layer in layers)
    assert not any(layer._forward_hooks for layer in layers)


def test_the_tokenizer_is_found_by_the_model_s_name(tiny, tokenizer):
    before = AutoTokenizer.from_pretrained
    with tokenizer_by_name(tiny, tokenizer):
        assert AutoTokenizer.from_pretrained(tiny.config.name_or_path) is tokenizer
    assert AutoTokenizer.from_pretrained == before
