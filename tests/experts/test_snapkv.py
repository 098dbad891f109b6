"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import kvpress
import pytest
import torch

from pikvpress import experts
from tests.conftest import make_tiny
from tests.experts.scoring import check_needs, check_scores, scores_of
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize("settings", [{}, {"window_size": 7, "kernel_size": 3}, {"window_size": 299, "kernel_size": 1}])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_scores_are_kvpress_s(settings, architecture, ids):
    check_scores("SnapKVPress", settings, architecture, ids)


def test_the_expert_is_ours_and_kvpress_s_press_has_its_needs():
    check_needs("snapkv", "SnapKVPress")


def test_snapkv_with_more_keys_than_hidden_states_is_kvpress_s(llama, ids):
    module, hidden, keys, values, attentions, kwargs = call_of(llama, ids)
    latest = hidden[:, -80:]
    cos, sin = kwargs["position_embeddings"]
    call = (latest, keys, values, attentions, {"position_embeddings": (cos[:, -80:], sin[:, -80:])})
    theirs = scores_of(kvpress.SnapKVPress(0.5), module, *call)
    torch.testing.assert_close(scores_of(experts.StreamedSnapKVPress(0.5), module, *call), theirs)


def test_snapkv_reads_attention_where_the_model_returns_it(ids):
    call = call_of(make_tiny(attn_implementation="eager"), ids)
    assert call[4] is not None
    assert torch.equal(scores_of(experts.StreamedSnapKVPress(0.5), *call), scores_of(kvpress.SnapKVPress(0.5), *call))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"window_size": 300}, "window_size=300 leaves nothing to score of 300"), ({"kernel_size": 4}, "odd number")],
)
def test_snapkv_refuses_what_it_cannot_score(settings, message, llama, ids):
    with pytest.raises(ValueError, match=message):
        scores_of(experts.StreamedSnapKVPress(0.5, **settings), *call_of(llama, ids))
