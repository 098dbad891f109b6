"""Every expert's ranking of the keys, and its measurement by probe queries."""

from __future__ import annotations

import pytest
import torch

from pikvpress.experts import LayerInput, make_experts
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing.examination import examine
from tests.experts.test_layer_view import call_of

EXPERTS = make_experts(["keydiff", "knorm", "snapkv"], None)


def test_ranks_order_keys_as_scores_do(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    with torch.no_grad():
        found = examine(EXPERTS, layer, 0.5)
        assert found.available == [0, 1, 2] and found.ranked.shape == (1, 2, 3, 300)
        assert found.ranked.amin() >= 0 and found.ranked.amax() <= 1
        scores = EXPERTS[1].score(layer, 0.5)
    assert torch.equal(found.ranked[:, :, 1].argsort(dim=-1), scores.argsort(dim=-1))
    assert found.features.shape == (1, 2, len(feature_names("abc"))) and found.mass.shape == (1, 2, 300)


def test_features_that_nobody_looks_at_are_not_measured(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    with torch.no_grad():
        found = examine(EXPERTS, layer, 0.5, measures=False)
    assert found.mass is None and not found.features.any()


def test_experts_that_cannot_score_stand_aside(llama, ids):
    layer = LayerInput(*call_of(llama, ids[:, :10]))  # shorter than SnapKV's window
    with torch.no_grad():
        assert examine(EXPERTS, layer, 0.5).available == [0, 1]
        with pytest.raises(ValueError, match="none of the experts snapkv can score 10 keys"):
            examine(EXPERTS[2:], layer, 0.5)


def test_an_empty_context_and_nan_are_refused(llama, ids):
    module, hidden, keys, values, *rest = call_of(llama, ids)
    empty = LayerInput(module, hidden, keys[:, :, :0], values[:, :, :0], *rest)
    with pytest.raises(ValueError, match="there are no keys to score"):
        examine(EXPERTS, empty, 0.5)
    keys[0, 0, 3] = torch.nan
    with pytest.raises(ValueError, match="the keys of layer 1 contain NaN"), torch.no_grad():
        examine(EXPERTS, LayerInput(module, hidden, keys, values, *rest), 0.5)
