"""A prefill is checked, measured, and undone if it fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from pikvpress import PiKVCache
from pikvpress.presses.prefill_watch import PrefillWatch
from pikvpress.routing.recorder import Recorder


class Told(Recorder):
    """A recorder that stores the calls it receives."""

    def __init__(self):
        self.told = []
        super().__init__()

    def reset(self):
        self.told.append("new")
        super().reset()

    def continued(self, tokens):
        self.told.append(tokens)

    def held(self, nbytes):
        self.told.append(nbytes)


def watching(model, cache, *chunks, shortest=5, ratio=0.5):
    record = Told()
    record.told.clear()
    watch = PrefillWatch(SimpleNamespace(compression_ratio=ratio), shortest, record)
    with watch.on(model), torch.no_grad():
        for ids in chunks:
            model(ids, past_key_values=cache)
    return record


def test_contexts_are_timed_and_tokens_read_after_them_counted(llama, ids):
    record = watching(llama, DynamicCache(), ids[:, :20], ids[:, 20:27], ids[:, 27:28], ids[:, 28:30])
    assert record.told == ["new", 7]  # a single token belongs to an answer, so what follows is not a context
    assert record.prefill.seconds > 0


def test_bytes_of_our_cache_are_those_that_it_holds(llama, ids):
    cache = PiKVCache()
    record = watching(llama, cache, ids[:, :20])
    assert record.told == ["new", [layer.nbytes for layer in cache.layers]]


def test_short_and_empty_contexts_are_refused_and_leave_no_hook(llama, ids):
    cache = DynamicCache()
    with pytest.raises(ValueError, match=r"the context has 4 tokens, .* need at least 5"):
        watching(llama, cache, ids[:, :4])
    with pytest.raises(ValueError, match="the context is empty"):
        watching(llama, cache, ids[:, :0])
    assert cache.get_seq_length() == 0 and not llama.model._forward_pre_hooks and not llama.model._forward_hooks
    watching(llama, cache, ids[:, :4], ratio=0.0)
    assert cache.get_seq_length() == 4
