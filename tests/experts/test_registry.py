import pytest
from kvpress import KnormPress, PyramidKVPress, SnapKVPress

from pikvpress import DEFAULT_EXPERTS, available_experts, register_expert
from pikvpress.experts import make_experts, registry
from pikvpress.support.registry import Registry

REQUIRED = {
    "expected_attention",
    "compactor",
    "keydiff",
    "snapkv",
    "tova",
    "lagkv",
    "knorm",
    "streaming_llm",
    "non_causal",
    "cur",
    "observed_attention",
    "probe_attention",
    "chunkkv",
}


def names(experts):
    return [expert.name for expert in experts]


def test_every_promised_expert_is_registered():
    assert set(available_experts()) == REQUIRED


def test_defaults_subsets_and_counts():
    assert tuple(names(make_experts(None, None))) == DEFAULT_EXPERTS
    assert names(make_experts(["tova", "knorm"], None)) == ["tova", "knorm"]
    assert names(make_experts(["tova", "knorm"], 1)) == ["tova"]
    assert names(make_experts(None, 6)) == list(available_experts()[:6])
    assert len(make_experts(None, 11)) == 11


def test_presses_of_ones_own_are_named_by_class_and_told_apart():
    made = make_experts([KnormPress(), KnormPress(), "knorm"], None)
    assert names(made) == ["KnormPress", "KnormPress_2", "knorm"]


def test_a_press_of_a_known_class_keeps_its_needs():
    (own,) = make_experts([SnapKVPress(window_size=32)], None)
    assert own.positional and own.reads_hidden_states


def test_experts_are_built_anew_each_time():
    assert make_experts(["knorm"], None)[0].press is not make_experts(["knorm"], None)[0].press


@pytest.mark.parametrize(
    ("experts", "num_experts", "error", "message"),
    [
        (["snap_kv"], None, ValueError, "unknown expert 'snap_kv': did you mean snapkv"),
        (["zzz"], None, ValueError, "known are compactor"),
        (["knorm", "knorm"], None, ValueError, "named twice"),
        ([], None, ValueError, "at least one expert"),
        (None, 0, ValueError, "at least one expert"),
        (None, 14, ValueError, "num_experts=14, but only 13 experts are known"),
        (["knorm"], 2, ValueError, "num_experts=2, but only 1 experts are given"),
        (None, 2.0, TypeError, "an integer"),
        ("knorm", None, TypeError, r"experts=\['knorm'\]"),
        ([3], None, TypeError, "name or a kvpress ScorerPress, got int"),
        ([PyramidKVPress], None, TypeError, "name or a kvpress ScorerPress, got type"),
    ],
)
def test_bad_experts(experts, num_experts, error, message):
    with pytest.raises(error, match=message):
        make_experts(experts, num_experts)


def test_registering_a_name_twice_is_refused_and_a_new_one_works(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", Registry("expert", registry._REGISTRY))
    register_expert("mine", KnormPress, prior=3.0)
    assert make_experts(["mine"], None)[0].prior == 3.0
    with pytest.raises(ValueError, match="already registered"):
        register_expert("mine", KnormPress)
