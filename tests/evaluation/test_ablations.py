"""Gates that use less information than the shipped ones."""

from __future__ import annotations

import sys

import pytest
import torch

from evaluation import ablations
from evaluation.ablations import LayerRouter, write_ablations
from evaluation.presses import PRESSES
from pikvpress.calibration import calibrate
from pikvpress.gates import load_gates
from pikvpress.gates.find import SHIPPED
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from tests.calibration.tiny import SETTINGS, Tokenizer
from tests.conftest import make_tiny

NAMES = ["looking", "random_0", "random_1", "random_2", "random_3", "random_4", "static_per_layer", "uniform"]


def test_those_of_the_study_are_there_and_of_the_experts_that_ship():
    assert sorted(path.stem for path in ablations.FOLDER.glob("*.safetensors")) == NAMES
    (shipped,) = map(load_gates, SHIPPED.glob("*.safetensors"))
    for name in NAMES:
        made = load_gates(ablations.path(name))
        assert list(made.experts) == list(shipped.experts) and made.model == shipped.model
    assert len([name for name in PRESSES if name.startswith("ablation_")]) == len(NAMES) + 2


def test_they_are_made_from_gates(tmp_path, monkeypatch):
    texts = ["".join(f"Line {i} of text {n} tells of things. " for i in range(40)) for n in range(8)]
    monkeypatch.setattr(sys.modules["pikvpress.calibration.calibrate"], "shipped_texts", lambda: texts)
    model = make_tiny("llama", seed=21)
    settings = SETTINGS | {"routers": ["pikv", "base"], "objective": None, "output": tmp_path / "gates.safetensors"}
    gates = calibrate(model, Tokenizer(), texts, **settings).gates
    before = dict(ROUTERS)
    paths = write_ablations(model, Tokenizer(), gates, tmp_path / "ablations")
    assert [path.stem for path in paths] == NAMES and before == ROUTERS
    made = {path.stem: load_gates(path) for path in paths}
    assert all(list(one.experts) == list(gates.experts) for one in made.values())
    for values in made["static_per_layer"].routers.values():
        assert (values["static"] == values["static"][:, :1]).all()
    assert made["looking"].routers["pikv"]["evidence"].any()
    assert made["looking"].curves is not None and made["uniform"].curves is None
    assert not any(value.any() for value in made["uniform"].routers["static"].values())
    drawn = [made[f"random_{seed}"].routers["base"]["static"] for seed in range(2)]
    assert not torch.equal(*drawn) and 0.5 < drawn[0].std() < 1.5


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_router_routes_all_heads_alike(layer):
    router = LayerRouter([1.0, 2.0], feature_names(["a", "b"]), 2, 3, RouterSettings(top_k=2))
    with torch.no_grad():
        router.static.normal_(generator=torch.Generator().manual_seed(0))
    features = torch.randn(1, 3, len(feature_names(["a", "b"])))
    weights = router(layer, features, torch.ones(2, dtype=torch.bool)).weights
    torch.testing.assert_close(weights, weights[:, :1].expand(-1, 3, -1))
    expected = router.static[layer].mean(dim=0).softmax(dim=-1)
    torch.testing.assert_close(weights[0, 0], expected)
