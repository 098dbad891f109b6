"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import pytest

from pikvpress import experts
from tests.experts.scoring import check_needs, check_scores, scores_of
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 100}, {"chunk_size": 301}])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_scores_are_kvpress_s(settings, architecture, ids):
    check_scores("NonCausalAttnPress", settings, architecture, ids)


def test_the_expert_is_ours_and_kvpress_s_press_has_its_needs():
    check_needs("non_causal", "NonCausalAttnPress")


def test_non_causal_attention_needs_the_hidden_states_of_all_keys(llama, ids):
    module, hidden, *rest = call_of(llama, ids)
    with pytest.raises(ValueError, match="pass the queries of all 300 tokens"):
        scores_of(experts.StreamedNonCausalAttnPress(0.5), module, hidden[:, -80:], *rest)
