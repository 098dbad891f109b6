import pytest
import torch

from pikvpress import MoERouterPress, models
from pikvpress.gates import check_gates, load_gates, save_gates
from pikvpress.head_features import feature_names
from pikvpress.routers import RouterSettings, router_class
from tests.conftest import make_tiny
from tests.helpers import prefill

EXPERTS = ["keydiff", "knorm"]


@pytest.fixture
def gates(tmp_path, llama):
    """Return a gates file for the tiny model in which every head uses knorm alone."""
    router = router_class("base")([1.0, 1.0], feature_names(EXPERTS), 2, 2, RouterSettings(top_k=2))
    with torch.no_grad():
        router.static[..., 1] = 50.0
    path = tmp_path / "gates.safetensors"
    save_gates(path, router, "base", EXPERTS, models.fingerprint(llama.model.layers[0].self_attn))
    return path


def press(path, **kwargs):
    return MoERouterPress(0.5, **{"router_type": "base", "experts": EXPERTS, "gates": path} | kwargs)


def test_fitted_gates_route(gates, llama, ids):
    fitted = press(gates)
    prefill(llama, ids, fitted)
    assert fitted.get_stats()["expert_shares"]["knorm"] == pytest.approx(1)
    assert fitted.plan.fitted


def test_wrappers_that_do_not_pass_the_model_on_cannot_slip_gates_past_the_check(gates, ids, llama):
    from kvpress import PerLayerCompressionPress

    prefill(llama, ids, PerLayerCompressionPress(press(gates), [0.5, 0.5]))
    with pytest.raises(ValueError, match="fitted for another model"):
        prefill(make_tiny("llama", seed=1), ids, PerLayerCompressionPress(press(gates), [0.5, 0.5]))
    with pytest.raises(ValueError, match=r"call press\.post_init_from_model"):
        prefill(llama, ids, PerLayerCompressionPress(press(gates), [0.0, 0.5]))


def test_gates_of_another_model_are_refused_before_the_model_is_touched(gates, ids):
    other = make_tiny("llama", seed=1)
    with pytest.raises(ValueError, match=r"fitted for another model .*weights"), press(gates)(other):
        pytest.fail("the model was touched")
    assert not any(layer.self_attn._forward_hooks for layer in other.model.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ["knorm", "keydiff"]}, "fitted for experts 'keydiff,knorm'"),
        ({"experts": ["knorm"]}, "fitted for experts"),
        ({"router_type": "pikv"}, "fitted for router_type 'base'"),
    ],
)
def test_gates_of_another_router_or_other_experts_are_refused(gates, changes, message):
    with pytest.raises(ValueError, match=message):
        press(gates, **changes)


def test_files_that_are_no_gates(gates, tmp_path):
    with pytest.raises(FileNotFoundError, match="no gates file at"):
        press(tmp_path / "missing")
    cut = tmp_path / "cut"
    cut.write_bytes(gates.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole gates file"):
        press(cut)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not a gates file"):
        press(tmp_path / "other")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(gates, monkeypatch):
    before = gates.read_bytes()

    def fail(tensors, path, metadata):
        raise OSError("disk full")

    monkeypatch.setattr("pikvpress.gates.file.save_file", fail)
    router = router_class("base")([1.0, 1.0], feature_names(EXPERTS), 2, 2, RouterSettings(top_k=2))
    with pytest.raises(OSError, match="disk full"):
        save_gates(gates, router, "base", EXPERTS, {})
    assert gates.read_bytes() == before
    assert [path.name for path in gates.parent.iterdir()] == [gates.name]


def test_what_is_saved_is_loaded(gates):
    tensors, model = load_gates(gates, "base", EXPERTS)
    assert tensors["static"].shape == (2, 2, 2)
    check_gates(model, dict(model))
    with pytest.raises(ValueError, match="hidden_size: gates 64, model 32"):
        check_gates(model, model | {"hidden_size": "32"})
