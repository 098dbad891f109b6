"""The shipped gates are found for the model they belong to, and only for that one."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, PiKVCache, PiKVPress, models
from pikvpress.experts import CANDIDATES
from pikvpress.gates import find_gates
from pikvpress.gates.find import SHIPPED
from pikvpress.routers import ROUTERS
from tests.conftest import make_tiny
from tests.helpers import prefill


@pytest.fixture(autouse=True)
def nothing_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))


@pytest.fixture(scope="module")
def ids(smollm):
    from pikvpress.demo import demo_document

    return smollm[1](demo_document()[0], return_tensors="pt").input_ids[:, :500]


def fingerprint(model):
    return models.fingerprint(models.attention_layers(model)[0])


def test_they_are_found_and_know_every_router(smollm):
    gates = find_gates(fingerprint(smollm[0]))
    assert gates is not None and set(gates.experts) <= set(CANDIDATES)
    assert "saliency" in gates.experts and len(gates.saliency) == 30
    assert set(gates.router_types) == set(ROUTERS)
    assert gates.curves.shape == (3, 30, 3, len(gates.keep_shares))
    assert gates.codec_curves.shape == (3, 30, 3, len(gates.codecs), len(gates.keep_shares))
    (file,) = SHIPPED.glob("*.safetensors")
    assert file.stat().st_size < 2**20
    assert gates.about["figures"]["pikv+fitted"]["divergence"]["prior"]


@pytest.mark.parametrize("budgets", ["equal", "fitted"])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_press_uses_them(router, budgets, smollm, ids):
    press = MoERouterPress(0.75, router_type=router, budgets=budgets)
    prefill(smollm[0], ids, press)
    assert press.plan.fitted
    assert press.get_stats()["reached_ratio"] == pytest.approx(0.75, abs=0.002)
    counts = {tuple(layer.head_tokens) for layer in press.plan.layers}
    assert len(counts) == 1 if budgets == "equal" else len(counts) > 20


@torch.no_grad()
def test_a_byte_budget_uses_them(smollm, ids):
    press, cache = PiKVPress(0.9), PiKVCache()
    with press(smollm[0]):
        smollm[0].model(input_ids=ids, past_key_values=cache)
    full = 30 * 3 * 2 * ids.shape[1] * 64 * 4
    assert press.plan.fitted and 0.095 * full <= cache.nbytes <= 0.1 * full
    assert len({pair for layer in press.plan.layers for pair in layer.codecs}) > 2


def test_another_model_gets_none_of_them(ids):
    assert find_gates(fingerprint(make_tiny("llama"))) is None


def test_changed_weights_get_none_of_them(smollm):
    model = smollm[0]
    weight = models.attention_layers(model)[0].o_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.neg_()
    try:
        assert find_gates(fingerprint(model)) is None
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert find_gates(fingerprint(model)) is not None
