"""Calibration from texts to gates that a press uses."""

from __future__ import annotations

import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress.calibration import calibrate, write_report
from pikvpress.calibration import collect as collecting
from pikvpress.calibration.texts import read_texts, shipped_texts, split
from pikvpress.gates import find_gates, load_gates
from tests.conftest import make_tiny
from tests.helpers import prefill

EXPERTS = ["saliency", "keydiff", "knorm", "probe_attention"]
SETTINGS = {"contexts": 4, "length": 256, "experts": EXPERTS, "max_experts": 3, "routers": ["pikv", "eplb"]}


class Tokenizer:
    """Characters as tokens, within the tiny models' vocabulary."""

    bos_token = "^"
    chat_template = None

    def encode(self, text, **kwargs):
        return [ord(character) % 500 for character in text]

    def decode(self, ids, **kwargs):
        return "".join(map(chr, ids))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    return tmp_path / "gates"


@pytest.fixture(scope="module")
def texts():
    return ["".join(f"Line {i} of text {n} tells of things. " for i in range(40)) for n in range(8)]


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_fitted_gates_are_found_and_used(architecture, home, texts, ids):
    model = make_tiny(architecture, seed=11)
    before, state = weights_of(model), torch.get_rng_state()
    told = []
    found = calibrate(model, Tokenizer(), texts, **SETTINGS, progress=lambda *step: told.append(step))
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


def test_an_interrupted_calibration_goes_on(home, texts, monkeypatch):
    model = make_tiny("llama", seed=12)
    collect, calls = collecting.collect, []

    def breaking(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return collect(*args)

    monkeypatch.setattr(collecting, "collect", breaking)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, Tokenizer(), texts, **SETTINGS)
    assert find_gates(models.fingerprint(model.model.layers[0].self_attn)) is None
    interrupted = calibrate(model, Tokenizer(), texts, **SETTINGS)
    assert len(calls) == 1 + 4 + 16 + 4  # two contexts of 24 were there already, one was lost
    through = calibrate(model, Tokenizer(), texts, **SETTINGS, output=home / "other.safetensors")
    assert interrupted.gates.experts == through.gates.experts
    for name, parameters in through.gates.routers.items():
        for key, value in parameters.items():
            torch.testing.assert_close(interrupted.gates.routers[name][key], value)


def test_a_failed_calibration_leaves_the_last_good_gates(home, texts, monkeypatch):
    model = make_tiny("llama", seed=13)
    good = calibrate(model, Tokenizer(), texts, **SETTINGS | {"objective": None, "routers": ["base"]})
    before = good.path.read_bytes()
    monkeypatch.setattr(collecting, "examine", lambda *args: pytest.fail("no experts"))
    with pytest.raises(pytest.fail.Exception):
        calibrate(model, Tokenizer(), texts, **SETTINGS | {"seed": 1})
    assert good.path.read_bytes() == before
    assert load_gates(good.path).about["figures"]["base"]["kept"] in (
        "prior",
        "static",
        "features",
    )
    assert not any(layer._forward_hooks for layer in models.attention_layers(model))


def test_the_report_shows_what_was_found(home, texts, tmp_path):
    found = calibrate(make_tiny("llama", seed=14), Tokenizer(), texts, **SETTINGS)
    page, picture = write_report(found, tmp_path / "report")
    text = page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG") and "data:image/png;base64," in text
    for expected in (
        "pikv, equal budgets: prior",
        "pikv, fitted budgets: end to end",
        "eplb, equal budgets: its own",
        "regret",
        *found.path.name.split(),
    ):
        assert expected in text
    shares = found.findings.expert_shares()
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert all(times > 0 for _, times in found.findings.best_alone())


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
    ],
)
def test_bad_settings_are_refused_before_anything_is_done(changes, message, home, texts, llama):
    settings = {"texts": texts} | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        calibrate(llama, Tokenizer(), **settings)
    assert not home.exists()


def test_texts(tmp_path):
    shipped = shipped_texts()
    assert len(shipped) == 24 and all(len(text) > 6000 for text in shipped)
    fit, held = split(shipped)
    assert len(fit) == 18 and len(held) == 6 and not set(fit) & set(held)
    fit, held = split(["abcd" * 10])
    assert (fit, held) == (["abcd" * 7 + "ab"], ["cd" + "abcd" * 2])
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe\xff")
    assert read_texts([tmp_path]) == ["first", "second"]
    with pytest.raises(FileNotFoundError, match="there is no text at"):
        read_texts([tmp_path / "missing"])
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read_texts([tmp_path / "c.bin"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.txt or \.md file"):
        read_texts([tmp_path / "empty"])
