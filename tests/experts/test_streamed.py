"""Streamed presses give the scores of kvpress's."""

from __future__ import annotations

import pytest
import torch
from kvpress import ExpectedAttentionPress, KeyDiffPress, LagKVPress

from pikvpress.experts import (
    LayerView,
    StreamedExpectedAttentionPress,
    StreamedKeyDiffPress,
    StreamedLagKVPress,
    make_experts,
)
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of

SETTINGS = [
    {},
    {"use_covariance": False},
    {"use_vnorm": False, "n_sink": 0},
    {"epsilon": 0.01, "n_future_positions": 7},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_expected_attention_is_kvpress_s(architecture, settings, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    with torch.no_grad():
        theirs = ExpectedAttentionPress(0.5, **settings).score(module, hidden, *rest)
        ours = StreamedExpectedAttentionPress(0.5, **settings)
        torch.testing.assert_close(ours.score(module, hidden, *rest), theirs)
        torch.testing.assert_close(ours.score(LayerView(module, hidden), hidden, *rest), theirs)


def test_expected_attention_is_kvpress_s_in_a_batch(llama, ids):
    module, hidden, *rest = call_of(llama, torch.cat([ids, ids.flip(1)]))
    with torch.no_grad():
        theirs = ExpectedAttentionPress(0.5).score(module, hidden, *rest)
        torch.testing.assert_close(StreamedExpectedAttentionPress(0.5).score(module, hidden, *rest), theirs)


def test_expected_attention_needs_a_token_after_the_sinks(llama, ids):
    module, hidden, *rest = call_of(llama, ids[:, :4])
    with pytest.raises(ValueError, match="n_sink=4 leaves nothing to score of 4 tokens"):
        StreamedExpectedAttentionPress(0.5).score(module, hidden, *rest)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_key_diff_is_kvpress_s(architecture, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    with torch.no_grad():
        theirs = KeyDiffPress(0.5).score(module, hidden, *rest)
        torch.testing.assert_close(StreamedKeyDiffPress(0.5).score(module, hidden, *rest), theirs)


@pytest.mark.parametrize("settings", [{"lag_size": 32}, {"lag_size": 32, "n_sink": 7, "cross_scoring": True}, {}])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_lag_kv_is_kvpress_s(architecture, settings, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    with torch.no_grad():
        theirs = LagKVPress(0.5, **settings).score(module, hidden, *rest)
        torch.testing.assert_close(StreamedLagKVPress(0.5, **settings).score(module, hidden, *rest), theirs)


def test_kvpress_s_presses_have_the_needs_of_ours():
    (theirs,) = make_experts([ExpectedAttentionPress()], None)
    (ours,) = make_experts(["expected_attention"], None)
    assert isinstance(ours.press, StreamedExpectedAttentionPress)
    assert theirs.reads_hidden_states and theirs.min_tokens == ours.min_tokens
