"""A press's router settings are checked before a model is involved."""

from __future__ import annotations

import pytest

from pikvpress import MoERouterPress
from pikvpress.gates import file_name, save_gates
from pikvpress.routing import RouterSpec
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


@pytest.fixture
def gates():
    return uneven_gates(make_tiny())


def spec(**settings):
    return RouterSpec.of(MoERouterPress(0.5, **settings))


def names(experts):
    return [expert.name for expert in experts]


def test_gates_bring_their_experts_unless_others_were_asked_for(gates):
    assert names(spec().experts_of(gates)) == ["keydiff", "knorm"]
    assert names(spec(num_experts=2).experts_of(gates)) == ["keydiff", "knorm"]
    assert names(spec(num_experts=3).experts_of(gates)) == names(spec(num_experts=3).experts)
    assert names(spec(experts=["knorm", "lagkv"]).experts_of(gates)) == ["knorm", "lagkv"]


def test_top_k_is_checked_for_the_experts_at_hand(gates):
    assert spec().settings_for(spec().experts).top_k == 4
    assert spec().settings_for(spec().experts_of(gates)).top_k == 2
    with pytest.raises(ValueError, match="top_k=5 chooses more experts than the 2 given"):
        spec(top_k=5).settings_for(spec().experts_of(gates))


def test_gates_are_found_by_the_model_and_given_ones_checked(gates, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    assert spec().gates_of(gates.model) is None
    save_gates(tmp_path / file_name(gates.model), gates)
    assert spec().gates_of(gates.model).experts == list(gates.experts)
    assert spec(gates=None).gates_of(gates.model) is None
    given = spec(gates=tmp_path / file_name(gates.model))
    with pytest.raises(ValueError, match="these gates were fitted for another model"):
        given.gates_of({**gates.model, "model_type": "other"})
    assert given.gates_for(given.gates, "equal") is given.gates


def test_gates_serve_if_they_know_the_router_and_the_experts(gates):
    assert spec().gates_for(gates, "equal") is spec().gates_for(gates, "fitted") is gates
    assert spec(experts=["lagkv", "knorm"]).gates_for(gates, "equal") is None
    assert spec(router_type="eplb").gates_for(gates, "equal") is None
    assert spec().gates_for(None, "equal") is spec(gates=None).gates_for(None, "equal") is None
