"""Prompts read in chunks: only the first chunk is compressed, which is reported and counted."""

from __future__ import annotations

import logging

import pytest
import torch
from kvpress import KnormPress

from pikvpress import MoERouterPress, PiKVCache, PiKVPress


@pytest.fixture
def unsaid():
    """Reset the record of warnings that are given only once."""
    logging.getLogger("pikvpress.chunked").warning_once.cache_clear()


@torch.no_grad()
def generate(model, ids, press, cache, **settings):
    with press(model):
        model.generate(ids, past_key_values=cache, max_new_tokens=4, min_new_tokens=4, do_sample=False, **settings)


@pytest.mark.parametrize("press", [PiKVPress(0.875, gates=None), MoERouterPress(0.5, gates=None), KnormPress(0.5)])
def test_it_is_said_once(llama, ids, press, unsaid, caplog):
    message = f"{type(press).__name__} compresses only the first chunk of the prompt"
    with caplog.at_level(logging.WARNING, logger="pikvpress"):
        generate(llama, ids, press, PiKVCache())
        generate(llama, ids, press, PiKVCache(), prefill_chunk_size=300)
        assert message not in caplog.text
        generate(llama, ids, press, PiKVCache(), prefill_chunk_size=100)
        generate(llama, ids, press, PiKVCache(), prefill_chunk_size=100)
    assert caplog.text.count(message) == 1


def test_plans_tell_the_ratio_reached(llama, ids):
    press, cache = MoERouterPress(0.5, gates=None), PiKVCache()
    generate(llama, ids, press, cache, prefill_chunk_size=100)
    stats, plan = press.get_stats(), press.plan
    assert plan.later_tokens == 200 and "the last 200 tokens were read after the rest" in str(plan)
    assert [(layer.num_keys, layer.tokens_asked, layer.tokens_kept) for layer in plan.layers] == [(300, 150, 250)] * 2
    assert stats["reached_ratio"] == pytest.approx(1 / 6) and stats["tokens_kept"] == 500
    assert plan.bytes_before == 2 * 2 * 2 * 300 * 16 * 4 and plan.bytes_after == plan.bytes_before * 250 / 300
    generate(llama, ids, press, PiKVCache())
    assert press.plan.later_tokens == 0 and press.get_stats()["reached_ratio"] == 0.5


def test_bytes_are_those_that_the_cache_holds(llama, ids):
    press, cache = PiKVPress(0.875, gates=None), PiKVCache()
    with torch.no_grad(), press(llama):
        for chunk in ids.split(100, dim=1):
            llama(chunk, past_key_values=cache)
    assert press.plan.bytes_after == cache.nbytes > 0.25 * press.plan.bytes_before
    assert press.plan.later_tokens == 200


def test_generated_tokens_are_no_context(llama, ids):
    press, cache = MoERouterPress(0.5, gates=None), PiKVCache()
    generate(llama, ids, press, cache)
    assert press.plan.later_tokens == 0 and cache.get_seq_length() == 150 + 3
