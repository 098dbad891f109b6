"""Streamed presses that look at attention give the scores of kvpress's."""

from __future__ import annotations

import kvpress
import pytest
import torch

from pikvpress import experts
from pikvpress.experts import LayerView, make_experts
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of

SETTINGS = [
    ("SnapKVPress", {}),
    ("SnapKVPress", {"window_size": 7, "kernel_size": 3}),
    ("SnapKVPress", {"window_size": 299, "kernel_size": 1}),
    ("NonCausalAttnPress", {}),
    ("NonCausalAttnPress", {"chunk_size": 100}),
    ("NonCausalAttnPress", {"chunk_size": 301}),
    ("CompactorPress", {}),
    ("CompactorPress", {"chunk_size": 32, "sketch_dimension": 8, "blending": 2.0}),
    ("CompactorPress", {"sink_size_start": 0, "sink_size_end": 0}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_scores_are_kvpress_s(name, settings, architecture, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), torch.cat([ids, ids.flip(1)]))
    theirs = scores_of(getattr(kvpress, name)(0.5, **settings), module, hidden, *rest)
    ours = getattr(experts, f"Streamed{name}")(0.5, **settings)
    for view in (module, LayerView(module, hidden)):
        torch.testing.assert_close(scores_of(ours, view, hidden, *rest), theirs, atol=1e-5, rtol=1e-5)


def scores_of(press, *call):
    torch.manual_seed(0)  # of the sketch
    with torch.no_grad():
        return press.score(*call)


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


def test_settings_reach_the_attention_of_compactor(llama, ids):
    call = call_of(llama, ids)
    press = experts.StreamedCompactorPress()
    press.compression_ratio, press.chunk_size = 0.5, 16
    theirs = kvpress.CompactorPress(0.5, chunk_size=16)
    torch.testing.assert_close(scores_of(press, *call), scores_of(theirs, *call), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"window_size": 300}, "window_size=300 leaves nothing to score of 300"), ({"kernel_size": 4}, "odd number")],
)
def test_snapkv_refuses_what_it_cannot_score(settings, message, llama, ids):
    with pytest.raises(ValueError, match=message):
        scores_of(experts.StreamedSnapKVPress(0.5, **settings), *call_of(llama, ids))


def test_non_causal_attention_needs_the_hidden_states_of_all_keys(llama, ids):
    module, hidden, *rest = call_of(llama, ids)
    with pytest.raises(ValueError, match="pass the queries of all 300 tokens"):
        scores_of(experts.StreamedNonCausalAttnPress(0.5), module, hidden[:, -80:], *rest)


@pytest.mark.parametrize(
    ("name", "kind"), [("snapkv", "SnapKV"), ("non_causal", "NonCausalAttn"), ("compactor", "Compactor")]
)
def test_the_experts_are_ours_and_kvpress_s_presses_have_their_needs(name, kind):
    (ours,) = make_experts([name], None)
    assert type(ours.press) is getattr(experts, f"Streamed{kind}Press")
    (theirs,) = make_experts([getattr(kvpress, f"{kind}Press")()], None)
    needs = ("min_tokens", "reads_hidden_states", "aligned", "positional", "random")
    assert [getattr(theirs, need) for need in needs] == [getattr(ours, need) for need in needs]
