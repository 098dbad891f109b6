"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import pytest
import torch
from kvpress import ExpectedAttentionPress

from pikvpress.experts import (
    LayerView,
    StreamedExpectedAttentionPress,
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


def test_kvpress_s_presses_have_the_needs_of_ours():
    (theirs,) = make_experts([ExpectedAttentionPress()], None)
    (ours,) = make_experts(["expected_attention"], None)
    assert isinstance(ours.press, StreamedExpectedAttentionPress)
    assert theirs.reads_hidden_states and theirs.min_tokens == ours.min_tokens
