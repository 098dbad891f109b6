"""Presses by name: all of kvpress's, with the settings that its registry gives them."""

from __future__ import annotations

import kvpress as kv
import pytest

from evaluation.presses import FULL_CACHE, PRESSES, parse_press
from pikvpress import MoERouterPress, PerLayerPress

KVPRESS_NAMES = """adakv_snapkv block_keydiff chunkkv critical_adakv_expected_attention critical_adakv_snapkv
critical_expected_attention critical_snapkv cur duo_attention duo_attention_on_the_fly
expected_attention fastkvzip finch keydiff kvcompose kvcompose_unstructured kvzip kvzip_plus
kvzap_linear kvzap_mlp kvzap_mlp_head kvzap_mlp_layer lagkv lukv knorm observed_attention pyramidkv
qfilter random RestoreKV RestoreKV_plus snap_think snapkv streaming_llm think tova compactor
adakv_compactor no_press cam_streaming_llm cam_knorm cam_adakv_snapkv cam_tova decoding_knorm
decoding_streaming_llm decoding_tova decoding_qfilter decoding_adakv_expected_attention_e2
decoding_adakv_snapkv decoding_keydiff merging_knorm merging_snapkv merging_expected_attention
merging_kvzap_mlp""".split()


def test_every_name_of_kvpress_is_known():
    assert len(KVPRESS_NAMES) == 54
    assert set(KVPRESS_NAMES) <= set(PRESSES)


@pytest.mark.parametrize("name", sorted(PRESSES))
def test_every_press_is_made_anew_at_its_ratio(name):
    needs = {"presses": "{0: knorm}", "key_channel_compression_ratio": "0.25", "threshold": "-4"}
    option = PRESSES[name].needs_option
    spec = parse_press(f"{name}@{option}={needs[option]}" if option else name)
    one, other = (spec.make(0.25 if spec.has_ratio else None) for _ in range(2))
    if name == FULL_CACHE:
        assert one is None
        return
    assert one is not other
    if spec.has_ratio and name not in ("snap_think", "per_layer"):
        assert getattr(one, spec.entry.ratio_field) == 0.25
    if name == "snap_think":
        assert [one.presses[0].compression_ratio, one.presses[1].key_channel_compression_ratio] == [0.25, 0.25]


def test_registry_settings():
    assert PRESSES["expected_attention"].make() == kv.AdaKVPress(kv.ExpectedAttentionPress(epsilon=1e-2))
    assert PRESSES["chunkkv"].make() == kv.ChunkKVPress(press=kv.SnapKVPress(), chunk_length=20)
    assert PRESSES["critical_adakv_expected_attention"].make() == kv.CriticalAdaKVPress(
        kv.ExpectedAttentionPress(use_vnorm=False)
    )
    assert PRESSES["kvzap_mlp"].make() == kv.DMSPress(kv.KVzapPress(model_type="mlp"))


def test_settings_reach_the_press_or_the_one_inside():
    assert parse_press("snapkv@window_size=16").make(0.5) == kv.SnapKVPress(0.5, window_size=16)
    press = parse_press("adakv_snapkv@window_size=16@alpha_safeguard=0.3").make(0.5)
    assert press == kv.AdaKVPress(kv.SnapKVPress(0.5, window_size=16), alpha_safeguard=0.3)
    press = parse_press("moe_router@router_type=adaptive@experts=[snapkv, keydiff]@top_k=1").make(0.5)
    assert isinstance(press, MoERouterPress)
    assert (press.router_type, press.experts, press.top_k) == ("adaptive", ["snapkv", "keydiff"], 1)
    assert parse_press("decoding_knorm@target_size=64").make(None).target_size == 64
    layers = parse_press("per_layer@presses={0-1: knorm, 3: snapkv@window_size=8}").make(0.75)
    assert isinstance(layers, PerLayerPress)
    assert layers.presses == {0: kv.KnormPress(0.75), 1: kv.KnormPress(0.75), 3: kv.SnapKVPress(0.75, window_size=8)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("snapvk", "did you mean snapkv"),
        ("nothing_like_it", "known are .*adakv_compactor"),
        ("snapkv@window=3", "did you mean window_size"),
        ("snapkv@window_size", "write snapkv@option=value"),
        ("snapkv@window_size=[1", "cannot be read"),
        ("snapkv@compression_ratio=0.3", "--ratio sets"),
        ("kvzap_mlp", "write kvzap_mlp@threshold="),
        ("moe_router@router_type=best", "known are base"),
        ("moe_router@top_k=9", "more experts than the 6"),
        ("adakv_knorm@alpha_safeguard=2", "cannot be made"),
        ("no_press@a=1", "no settings"),
        ("per_layer@presses={first: knorm}", "'first' is no layer"),
        ("per_layer@presses=knorm", "layers to names"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        parse_press(name)


def test_a_bad_ratio_names_the_press():
    with pytest.raises(ValueError, match="knorm"):
        parse_press("knorm").make(1.5)
