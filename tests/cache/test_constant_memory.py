"""A scheduled cache under a ceiling of bytes holds as much after thousands of tokens as before."""

from __future__ import annotations

import pickle

import pytest
import torch

from pikvpress import PiKVCache
from pikvpress.cache import history
from tests.cache.test_scheduled import scheduler
from tests.conftest import make_tiny

CEILING, TOKENS, ROUND = 100_000, 2_560, 64


@torch.no_grad()
@pytest.mark.parametrize("name", ["saliency", "adaptive"])
def test_nothing_grows_over_thousands_of_tokens(name, monkeypatch):
    monkeypatch.setattr(history, "STEPS", 8)  # as after a hundred times as many tokens
    model = make_tiny("llama")
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]
    chosen = scheduler(name)
    if name == "saliency":
        chosen = type(chosen)(weights=chosen.weights[:1])
    cache, token = PiKVCache(window=32, scheduler=chosen, max_bytes=CEILING), torch.tensor([[7]])
    bytes_held, everything = [], []
    for count in range(1, TOKENS + 1):
        token = model(token, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
        bytes_held.append(cache.nbytes)
        assert bytes_held[-1] <= CEILING
        if count % (8 * ROUND) == 0:
            everything.append(len(pickle.dumps((cache.layers, cache.history))))
    rounds = [bytes_held[first : first + ROUND] for first in range(TOKENS // 2, TOKENS, ROUND)]
    assert all(each == rounds[0] for each in rounds)  # the same bytes while every page fills
    assert max(rounds[0]) > 0.9 * CEILING
    # Not only what the cache counts: everything that it holds, apart from the few steps of its history.
    assert max(everything[2:]) - min(everything[2:]) <= 8 * 64
    assert len(cache.history.steps) <= 8 and sum(step.times for step in cache.history.steps) > 30
    assert cache.history.dropped()[0] == sum(2 * [TOKENS]) - sum(cache.layers[0].counts()[0])
