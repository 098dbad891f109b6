"""Calibration from texts to gates that a press uses."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress.calibration import Recipe, calibrate
from pikvpress.calibration.fit.gates import for_experts
from pikvpress.calibration.measure import measurements
from pikvpress.gates import find_gates, load_gates
from pikvpress.routers import RouterSettings
from tests.calibration.tiny import EXPERTS, SETTINGS, TEXTS, Tokenizer
from tests.conftest import make_tiny
from tests.helpers import prefill


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    return tmp_path / "gates"


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_fitted_gates_are_found_and_used(architecture, home, ids):
    model = make_tiny(architecture, seed=11)
    before, state = weights_of(model), torch.get_rng_state()
    told = []
    settings = SETTINGS | {"worth_of_time": 0.2}
    found = calibrate(model, Tokenizer(), TEXTS, **settings, progress=lambda *step: told.append(step))
    assert found.path.parent == home and [path.name for path in home.iterdir()] == [found.path.name]
    assert 1 <= len(found.gates.experts) <= 3 and set(found.gates.experts) <= set(EXPERTS)
    assert set(found.gates.routers) == {"pikv", "pikv+fitted", "eplb", "eplb+fitted"}
    assert told[-1][1] == told[-1][2] and all(done <= total for _, done, total in told)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(layer._forward_hooks or hasattr(layer, "rotary_emb") for layer in models.attention_layers(model))

    for router in ("pikv", "eplb"):
        press = MoERouterPress(0.5, router_type=router, budgets="fitted")
        prefill(model, ids, press)
        assert press.plan.fitted and press.plan.experts == found.gates.experts
        assert press.get_stats()["reached_ratio"] == pytest.approx(0.5, abs=0.01)
    unfitted = MoERouterPress(0.5, router_type="base")
    prefill(model, ids, unfitted)
    assert not unfitted.plan.fitted


def test_an_interrupted_calibration_goes_on(home, monkeypatch):
    model = make_tiny("llama", seed=12)
    collect, calls = measurements.collect, []

    def breaking(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return collect(*args)

    monkeypatch.setattr(measurements, "collect", breaking)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, Tokenizer(), TEXTS, **SETTINGS)
    assert find_gates(models.fingerprint(model.model.layers[0].self_attn)) is None
    interrupted = calibrate(model, Tokenizer(), TEXTS, **SETTINGS)
    assert len(calls) == 1 + 4 + 8 + 4  # of 16 contexts, two were there already and one was lost
    through = calibrate(model, Tokenizer(), TEXTS, **SETTINGS, output=home / "other.safetensors")
    assert interrupted.gates.experts == through.gates.experts
    for name, parameters in through.gates.routers.items():
        for key, value in parameters.items():
            torch.testing.assert_close(interrupted.gates.routers[name][key], value)


def test_a_failed_calibration_leaves_the_last_good_gates(home, monkeypatch):
    model = make_tiny("llama", seed=13)
    good = calibrate(model, Tokenizer(), TEXTS, **SETTINGS | {"objective": None, "routers": ["base"]})
    before = good.path.read_bytes()
    monkeypatch.setattr(measurements, "look", lambda *args: pytest.fail("no experts"))
    with pytest.raises(pytest.fail.Exception):
        calibrate(model, Tokenizer(), TEXTS, **SETTINGS | {"seed": 1})
    assert good.path.read_bytes() == before
    assert load_gates(good.path).about["figures"]["base"]["kept"] in (
        "prior",
        "static",
        "features",
    )
    assert not any(layer._forward_hooks for layer in models.attention_layers(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ["short"]}, "the texts have .* tokens, but contexts of 256"),
        ({"minutes": 0}, "minutes must be more than 0"),
        ({"contexts": 1}, "at least 2 contexts"),
        ({"max_experts": 0}, "max_experts must be at least 1"),
        ({"routers": []}, "name at least one router: base"),
        ({"routers": ["pivk"]}, "unknown router_type 'pivk': did you mean pikv"),
        ({"experts": ["knrom"]}, "unknown expert 'knrom'"),
        ({"objective": "mse"}, "unknown objective 'mse'"),
        ({"output": "."}, "is a folder: name a file in it"),
        ({"length": 100}, "at least 256 tokens"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_done(changes, message, home, llama):
    settings = {"texts": TEXTS} | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        calibrate(llama, Tokenizer(), **settings)
    assert not home.exists()


def test_an_argument_that_is_none_is_refused(home, llama):
    with pytest.raises(TypeError, match="has no argument 'epochs': choices are minutes, contexts"):
        calibrate(llama, Tokenizer(), TEXTS, epochs=3)
    assert not home.exists()


def fitted(home, **settings):
    model = make_tiny("llama", seed=15)
    few = SETTINGS | {"experts": EXPERTS[1:], "routers": ["topk_balanced"], "contexts": 2, "objective": None} | settings
    return calibrate(model, Tokenizer(), TEXTS, output=home / "gates.safetensors", **few).gates


def test_arguments_count_in_place_of_the_recipe(home):
    recipe = Recipe(epochs=1, ratios=(0.25, 0.6), keep_shares=(1.0, 0.5, 0.25), seed=7, contexts=9)
    gates = fitted(home, recipe=recipe)
    assert (gates.about["contexts"], gates.about["seed"]) == (2, 7)
    assert gates.ratios == (0.25, 0.6) and gates.keep_shares == (1.0, 0.5, 0.25)
    assert gates.curves.shape == (2, 2, 2, 3) and gates.codec_curves.shape[-1] == 3


def test_settings_reach_the_fit_and_are_told_by_the_gates(home):
    plain, same, other = (
        fitted(home, settings=settings)
        for settings in (None, RouterSettings(), RouterSettings(aux_loss_weight=30.0, balance_mode="gini"))
    )
    assert "settings" not in plain.about and other.about["settings"]["balance_mode"] == "gini"
    for name, parameters in plain.routers.items():
        assert torch.equal(parameters["static"], same.routers[name]["static"])
    assert any(not torch.equal(plain.routers[name]["static"], other.routers[name]["static"]) for name in plain.routers)


def test_settings_are_lowered_to_what_the_experts_allow():
    settings = for_experts(RouterSettings(top_k=5, num_groups=4, group_top_k=3, temperature=2.0), 2)
    assert (settings.top_k, settings.num_groups, settings.group_top_k, settings.temperature) == (2, 2, 2, 2.0)
    assert for_experts(RouterSettings(), 4) == RouterSettings()
