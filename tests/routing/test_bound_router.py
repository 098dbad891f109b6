"""A router bound to a model: one call leads from a layer's input to what the layer keeps."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress.budgets import TOKEN_BUDGETS, ModelShape
from pikvpress.experts import LayerInput
from pikvpress.gates import save_gates
from pikvpress.routing import Recorder, RouterSpec, bind, examine
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of
from tests.helpers import kept_positions, prefill, uneven_gates

SHAPE = ModelShape(2, 2, 16, torch.float32, (0, 1))


@pytest.fixture
def layer(llama, ids):
    return LayerInput(*call_of(llama, ids))


def bound(layer, *kinds, gates=None, shape=SHAPE, examiner=examine, **settings):
    spec = RouterSpec.of(MoERouterPress(0.5, gates=None, **settings))
    budgets = {kind: TOKEN_BUDGETS[kind] for kind in kinds}
    return bind(spec, layer.module, gates, budgets, shape, examiner, Recorder())


def test_rank_keeps_what_the_press_keeps(llama, ids, layer):
    (decision,) = bound(layer, "equal").rank(layer, "equal", 0.6)
    assert decision.layer.module is layer.module and decision.layer.keys is layer.keys
    cache, full = prefill(llama, ids, MoERouterPress(0.6, gates=None)), prefill(llama, ids)
    positions = kept_positions(cache.layers[1].values, full.layers[1].values)
    expected = decision.layer.scores.topk(positions.shape[-1], dim=-1).indices.sort(dim=-1).values
    assert torch.equal(positions, expected)
    assert not decision.layer.scores.requires_grad


def test_nothing_changes_but_the_record(layer):
    router = bound(layer, "equal")
    assert router.record.plan(0.5).layers == []
    first, again = (router.score(layer, "equal", 0.5) for _ in range(2))
    assert torch.equal(first.scores, again.scores) and torch.equal(first.weights, again.weights)
    assert len(router.record.plan(0.5).layers) == 1
    with pytest.raises(AttributeError):
        router.gates = None


def test_another_examiner_is_asked_in_place_of_ours(layer):
    asked = []

    def examiner(experts, layer, ratio, measures):
        asked.append((layer.index, ratio, measures))
        return examine(experts, layer, ratio, measures)

    bound(layer, "equal", examiner=examiner).score(layer, "equal", 0.0)
    assert asked == [(1, 0.5, True)]  # without a ratio, experts are compared at one half


def test_gates_give_scores_the_worth_of_tokens(llama, layer):
    gates = uneven_gates(llama)
    router = bound(layer, "fitted", gates=gates)
    assert [expert.name for expert in router.experts] == list(gates.experts)
    scores = router.score(layer, "fitted", 0.5).scores
    assert (scores[:, 0].amax(dim=-1) > 10 * scores[:, 1].amax(dim=-1)).all()  # its first head needs tokens


def test_an_unknown_model_is_refused_by_what_needs_it(layer):
    with pytest.raises(ValueError, match="pyramid budgets need the model, which the wrapper press does not pass on"):
        bound(layer, "pyramid", shape=None)
    with pytest.raises(ValueError, match="expert chunkkv needs the model"):
        bound(layer, "equal", shape=None, experts=["chunkkv", "knorm"])


def test_a_press_lets_go_of_its_router_after_the_model(llama, ids, tmp_path):
    save_gates(tmp_path / "gates.safetensors", uneven_gates(llama))
    press = MoERouterPress(0.5, gates=tmp_path / "gates.safetensors")
    prefill(llama, ids, press)
    assert press._router is None and press.plan.fitted and press.plan.experts == ["keydiff", "knorm"]
    other = make_tiny("llama", seed=3)
    mine, others = (models.fingerprint(models.attention_layers(model)[0]) for model in (llama, other))
    assert mine != others
    with pytest.raises(ValueError, match="these gates were fitted for another model"), press(other):
        pass


@pytest.mark.parametrize("looks", [False, True])
def test_experts_that_no_head_uses_are_not_computed_unless_the_router_looks(layer, llama, looks):
    gates = uneven_gates(llama, ("keydiff", "knorm"))
    parameters = gates.routers["pikv"]
    with torch.no_grad():
        parameters["static"][1, :, 0] = -1000.0  # layer 1 does not use keydiff
        parameters["evidence"].zero_()
        parameters["evidence"][0, 0] = float(looks)
    asked = []

    def examiner(experts, layer, ratio, measures):
        asked.append([expert.name for expert in experts])
        return examine(experts, layer, ratio, measures)

    router = bound(layer, "equal", gates=gates, experts=["keydiff", "knorm"], examiner=examiner)
    scored = router.score(layer, "equal", 0.5)
    assert asked == [["keydiff", "knorm"] if looks else ["knorm"]]
    assert router.used == {"equal": None if looks else [[0, 1], [1]]}
    if not looks:
        assert scored.weights[..., 1].eq(1).all()
