"""Experts are measured on the input only if the measurements are used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress.gates import Gates, load_gates, save_gates
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing import features
from tests.helpers import prefill

EXPERTS = ["keydiff", "knorm"]


@pytest.fixture
def gates(tmp_path, llama):
    """Gates that do not look at the input."""
    router = ROUTERS["pikv"]([1.0, 3.0], feature_names(EXPERTS), 2, 2, RouterSettings(top_k=2))
    with torch.no_grad():
        router.evidence.zero_()
    path = tmp_path / "gates.safetensors"
    model = models.fingerprint(llama.model.layers[0].self_attn)
    curves = torch.tensor([0.0, 0.1, 1.0]).expand(1, 2, 2, 3)
    save_gates(path, Gates(model, EXPERTS, {"pikv": router.state_dict()}, curves, (1.0, 0.5, 0.1), (0.5,)))
    return path


@pytest.fixture
def measured(monkeypatch):
    """Layers whose head features were measured."""
    layers, collect = [], features.collect

    def counting(layer, *args):
        layers.append(layer.index)
        return collect(layer, *args)

    monkeypatch.setattr(features, "collect", counting)
    return layers


def test_gates_that_do_not_look_spare_the_measurement(gates, measured, llama, ids):
    spared = prefill(llama, ids, MoERouterPress(0.5, gates=gates))
    assert measured == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pikvpress.routers.Router.looks", lambda router: True)
        looking = prefill(llama, ids, MoERouterPress(0.5, gates=gates))
    assert measured == [0, 1]
    for one, other in zip(spared.layers, looking.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


def test_the_prior_looks(measured, llama, ids):
    prefill(llama, ids, MoERouterPress(0.5, gates=None))
    assert measured == [0, 1]


def test_gates_that_look_at_one_feature_have_it_measured(gates, measured, llama, ids):
    loaded = load_gates(gates)
    evidence = loaded.routers["pikv"]["evidence"].clone()
    evidence[-1, 0] = 1e-3
    save_gates(gates, replace(loaded, routers={"pikv": {**loaded.routers["pikv"], "evidence": evidence}}))
    prefill(llama, ids, MoERouterPress(0.5, gates=gates))
    assert measured == [0, 1]


def test_without_error_curves_the_measured_attention_is_what_keys_are_worth(gates, measured, llama, ids):
    save_gates(gates, replace(load_gates(gates), curves=None))
    prefill(llama, ids, MoERouterPress(0.5, gates=gates))
    assert measured == [0, 1]


@pytest.mark.parametrize(("router_type", "looks"), [("base", True), ("static", False)])
def test_a_feature_that_a_router_does_not_see_moves_nothing(router_type, looks):
    router = ROUTERS[router_type]([1.0, 1.0], feature_names(EXPERTS), 1, 1, RouterSettings(top_k=2))
    with torch.no_grad():
        router.evidence.zero_()
        assert not router.looks()
        router.evidence[0, 1] = 1.0
    assert router.looks() is looks
