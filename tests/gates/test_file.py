import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pikvpress import MoERouterPress, models
from pikvpress.budgets import counts_by_curves
from pikvpress.gates import Gates, file_name, find_gates, load_gates, save_gates
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from tests.conftest import make_tiny
from tests.helpers import prefill

EXPERTS = ["keydiff", "knorm"]


def fitted(model, **changes):
    """Return gates for a tiny model in which every head uses knorm alone."""
    router = ROUTERS["base"]([1.0, 1.0], feature_names(EXPERTS), 2, 2, RouterSettings(top_k=2))
    with torch.no_grad():
        router.static[..., 1] = 50.0
    settings = {
        "model": models.fingerprint(model.model.layers[0].self_attn),
        "experts": EXPERTS,
        "routers": {"base": router.state_dict()},
        "about": {"seed": 7},
    }
    return Gates(**settings | changes)


@pytest.fixture
def gates(tmp_path, llama):
    path = tmp_path / "gates.safetensors"
    save_gates(path, fitted(llama))
    return path


def press(path, **kwargs):
    return MoERouterPress(0.5, **{"router_type": "base", "experts": EXPERTS, "gates": path} | kwargs)


def test_fitted_gates_route(gates, llama, ids):
    fitted = press(gates)
    prefill(llama, ids, fitted)
    assert fitted.get_stats()["expert_shares"]["knorm"] == pytest.approx(1)
    assert fitted.plan.fitted


def test_queries_are_kept_in_4_bits(tmp_path, llama):
    queries = torch.randn(2, 4, 6, 16, generator=torch.Generator().manual_seed(0)).half()
    queries[0] = 0
    save_gates(tmp_path / "with", fitted(llama, queries=queries))
    save_gates(tmp_path / "without", fitted(llama))
    found = load_gates(tmp_path / "with").queries
    assert found.shape == queries.shape and found.dtype == torch.float16 and not found[0].any()
    assert (found - queries).float().norm() < 0.15 * queries.float().norm()
    grown = (tmp_path / "with").stat().st_size - (tmp_path / "without").stat().st_size
    assert grown < queries.nbytes * 0.4 + 300
    assert load_gates(tmp_path / "without").queries is None


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
        ({"experts": ["knorm", "keydiff"]}, "fitted for experts keydiff, knorm, in this order"),
        ({"experts": ["knorm"]}, "fitted for experts"),
        ({"router_type": "pikv"}, "fitted for router_type 'base', but the press has 'pikv' with equal budgets"),
    ],
)
def test_gates_of_another_router_or_other_experts_are_refused(gates, changes, message):
    with pytest.raises(ValueError, match=message):
        press(gates, **changes)


@pytest.mark.parametrize("num_experts", [None, len(EXPERTS)])
def test_gates_bring_their_experts_along(gates, llama, ids, num_experts):
    routed = press(gates, experts=None, num_experts=num_experts)
    prefill(llama, ids, routed)
    assert list(routed.get_stats()["expert_shares"]) == EXPERTS


def test_gates_that_know_fewer_experts_than_asked_for_are_refused(gates):
    with pytest.raises(ValueError, match="fitted for experts keydiff, knorm, in this order"):
        press(gates, experts=None, num_experts=len(EXPERTS) + 1)


def test_files_that_are_no_gates(gates, tmp_path):
    with pytest.raises(FileNotFoundError, match="no gates file at"):
        press(tmp_path / "missing")
    cut = tmp_path / "cut"
    cut.write_bytes(gates.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a complete gates file"):
        press(cut)
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="not a gates file"):
        press(tmp_path / "other")


@pytest.mark.parametrize("spoil", ["changed", "not a number"])
def test_altered_gates_are_refused(gates, spoil):
    with safe_open(gates, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["base/static"][0, 0, 0] = 1.0 if spoil == "changed" else float("nan")
    save_file(tensors, gates, metadata=metadata)
    with pytest.raises(ValueError, match="altered since it was written"):
        load_gates(gates)


def test_features_of_another_version_are_refused(gates, monkeypatch):
    monkeypatch.setattr("pikvpress.routers.feature_names.VERSION", "next")
    with pytest.raises(ValueError, match=r"head features of version .*, but this is version next"):
        load_gates(gates)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(gates, llama, monkeypatch):
    before = gates.read_bytes()

    def fail(tensors, path, metadata):
        raise OSError("disk full")

    monkeypatch.setattr("pikvpress.tensor_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_gates(gates, fitted(llama))
    assert gates.read_bytes() == before
    assert [path.name for path in gates.parent.iterdir()] == [gates.name]


def test_what_is_saved_is_loaded(tmp_path, llama):
    curves = torch.rand(2, 2, 2, 3)
    curves[0] = float("nan")
    written = fitted(llama, curves=curves, keep_shares=(1.0, 0.5, 0.25), ratios=(0.5, 0.75))
    save_gates(tmp_path / "gates", written)
    assert (tmp_path / "gates").stat().st_mode & 0o777 == 0o644
    read = load_gates(tmp_path / "gates")
    assert (read.model, read.experts, read.about) == (written.model, EXPERTS, {"seed": 7})
    assert (read.keep_shares, read.ratios) == ((1.0, 0.5, 0.25), (0.5, 0.75))
    assert torch.equal(read.routers["base"]["static"], written.routers["base"]["static"])
    assert torch.equal(read.curves[1], curves[1]) and read.curves[0].isnan().all()
    read.check_model(written.model)
    with pytest.raises(ValueError, match="hidden_size: gates 64, model 32"):
        read.check_model({**written.model, "hidden_size": "32"})


def test_digests_tell_whether_two_gates_decide_alike(gates, llama):
    digest = load_gates(gates).digest()
    assert digest == load_gates(gates).digest() == fitted(llama, about={}).digest()
    changed = fitted(llama)
    changed.routers["base"]["static"][1, 0, 0] += 1
    others = [changed, fitted(llama, ratios=(0.5,)), fitted(llama, curves=torch.zeros(1, 2, 2, 3))]
    assert len({digest, *(other.digest() for other in others)}) == 4


def test_gates_are_found_by_what_the_model_is(tmp_path, llama, ids, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    written = fitted(llama)
    save_gates(tmp_path / file_name(written.model), written)
    for number in (len(EXPERTS), None):
        routed = MoERouterPress(0.5, router_type="base", num_experts=number)
        prefill(llama, ids, routed)
        assert routed.plan.fitted and routed.plan.experts == EXPERTS
    others = {
        "the prior was asked for": MoERouterPress(0.5, router_type="base", gates=None),
        "other experts were asked for": MoERouterPress(0.5, router_type="base", experts=["knorm", "tova"]),
        "more experts were asked for": MoERouterPress(0.5, router_type="base", num_experts=len(EXPERTS) + 1),
        "another router was asked for": MoERouterPress(0.5),
    }
    for why, other in others.items():
        prefill(llama, ids, other)
        assert not other.plan.fitted, why
    prefill(make_tiny("llama", seed=1), ids, routed)
    assert not routed.plan.fitted
    prefill(llama, ids, routed)
    assert routed.plan.fitted


def test_a_found_file_that_is_another_model_s_is_refused(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    other = fitted(make_tiny("llama", seed=1))
    wanted = models.fingerprint(llama.model.layers[0].self_attn)
    save_gates(tmp_path / file_name(wanted), other)
    with pytest.raises(ValueError, match="fitted for another model"):
        find_gates(wanted)


def test_budgets_go_by_the_nearest_ratio(llama):
    curves = torch.tensor([[[[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]]]])
    gates = fitted(llama, curves=curves, keep_shares=(1.0, 0.5, 0.25), ratios=(0.5, 0.75))
    assert counts_by_curves(gates, 0.6, 40, 16).tolist() == [[22, 10]]
    assert counts_by_curves(gates, 0.9, 40, 16).tolist() == [[10, 22]]
    with pytest.raises(ValueError, match="have no error curves"):
        counts_by_curves(fitted(llama), 0.5, 40, 20)
