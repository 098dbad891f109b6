"""SaliencyPress: the fitted expert as a press."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, SaliencyPress, models, saliency_features
from pikvpress.experts import make_experts
from pikvpress.gates import Gates, file_name, load_gates, save_gates
from pikvpress.routers import RouterSettings
from pikvpress.routing.make_router import make_router
from pikvpress.saliency_features import num_features
from tests.helpers import prefill


@pytest.fixture
def weights():
    return torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(0))


def test_it_is_a_press_of_its_own(weights, ids, llama):
    cache = prefill(llama, ids, SaliencyPress(0.5, weights))
    assert cache.get_seq_length() == ids.shape[1] // 2


def test_gates_bring_its_weights(weights, ids, llama, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    attention = models.attention_layers(llama)[0]
    experts = make_experts(["saliency", "keydiff"], None)
    router = make_router("static", experts, attention, RouterSettings(top_k=2))
    model, static = models.fingerprint(attention), dict(router.state_dict())
    static["static"] = torch.tensor([20.0, -20.0]).expand(2, 2, 2)  # saliency alone
    path = tmp_path / file_name(model)
    save_gates(path, Gates(model, ["saliency", "keydiff"], {"static": static}, saliency=weights))
    torch.testing.assert_close(load_gates(path).saliency, weights)
    alone = prefill(llama, ids, SaliencyPress(0.5, weights))
    for press in (SaliencyPress(0.5), MoERouterPress(0.5, router_type="static")):
        for layer, expected in zip(prefill(llama, ids, press).layers, alone.layers, strict=True):
            for states, theirs in ((layer.keys, expected.keys), (layer.values, expected.values)):
                assert torch.equal(states.sort(dim=2).values, theirs.sort(dim=2).values)
    monkeypatch.setattr(saliency_features, "VERSION", "0")
    with pytest.raises(ValueError, match="saliency features of version 1, but this is version 0"):
        load_gates(path)


def test_without_weights_it_says_where_they_come_from(ids, llama):
    with pytest.raises(ValueError, match="fitted by calibration, and there are no gates for this model"):
        prefill(llama, ids, SaliencyPress(0.5))
    layer = prefill(llama, ids).layers[1]
    with pytest.raises(ValueError, match=r"call press\.post_init_from_model.* on the SaliencyPress"):
        SaliencyPress(0.5).score(models.attention_layers(llama)[1], None, layer.keys, layer.values, None, {})
    assert not any(layer._forward_hooks for layer in models.attention_layers(llama))


def test_as_an_expert_it_is_known_to_read_positions(weights):
    (expert,) = make_experts([SaliencyPress(weights=weights)], None)
    assert expert.name == "SaliencyPress" and expert.positional
