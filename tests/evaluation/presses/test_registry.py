"""Presses by name: all of kvpress's, with the settings from its registry, and custom ones, added with one line."""

from __future__ import annotations

import json
from dataclasses import dataclass

import kvpress as kv
import pytest
from typer.testing import CliRunner

from evaluation.cli import app
from evaluation.compressors import FullCache, WhileAnswering
from evaluation.evaluate import evaluate
from evaluation.presses import FULL_CACHE, PRESSES, Entry, parse_press
from evaluation.study import make_study

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
    needs = {
        "presses": "{0: knorm}",
        "key_channel_compression_ratio": "0.25",
        "threshold": "-4",
        "keys": "rot2",
        "values": "int4",
    }
    spec = parse_press("@".join([name, *(f"{option}={needs[option]}" for option in PRESSES[name].required)]))
    one, other = (spec.make(0.25 if spec.has_ratio else None) for _ in range(2))
    if name == FULL_CACHE:
        assert one is None
        return
    assert one is not other
    if spec.has_ratio and name not in ("snap_think", "per_layer"):
        assert getattr(one, spec.entry.ratio_of.attribute) == 0.25
    if name == "snap_think":
        assert [one.presses[0].compression_ratio, one.presses[1].key_channel_compression_ratio] == [0.25, 0.25]


def test_presses_without_a_ratio_work_by_a_threshold_a_codec_or_a_size():
    for name, entry in PRESSES.items():
        if name == "joined":  # full caches
            continue
        by_setting = {"threshold", "keys"} & {*entry.required}
        assert (entry.ratio_of is None) == bool(by_setting or isinstance(entry.strategy, WhileAnswering))
        assert (name == FULL_CACHE) == (type(entry.strategy) is FullCache)


def test_registry_settings():
    assert PRESSES["expected_attention"].make() == kv.AdaKVPress(kv.ExpectedAttentionPress(epsilon=1e-2))
    assert PRESSES["chunkkv"].make() == kv.ChunkKVPress(press=kv.SnapKVPress(), chunk_length=20)
    assert PRESSES["critical_adakv_expected_attention"].make() == kv.CriticalAdaKVPress(
        kv.ExpectedAttentionPress(use_vnorm=False)
    )
    assert PRESSES["kvzap_mlp"].make(threshold=-4) == kv.DMSPress(kv.KVzapPress(model_type="mlp"), threshold=-4)


@dataclass
class MyPress(kv.ScorerPress):
    """A custom press."""

    sign: float = 1.0

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return self.sign * keys.norm(dim=-1)


def test_a_press_is_added_by_one_line(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESSES, "mine", Entry(MyPress))
    settings = {"benchmarks": ["fidelity"], "lengths": [300], "samples": 1, "tasks": ["needle"], "ratios": [0.5]}
    names = ["mine", "mine@sign=-1", "knorm"]
    evaluate(make_study(settings | {"presses": names, "model": str(tiny_folder), "output": tmp_path / "out"}))
    rows = [json.loads(line) for line in (tmp_path / "out/samples-0.jsonl").read_text().splitlines()]
    mine, other, knorm = (next(row for row in rows if row["press"] == name) for name in names)
    assert mine["tokens_kept"] == other["tokens_kept"] == knorm["tokens_kept"] and not mine["masked"]
    assert mine["measures"] != other["measures"] == knorm["measures"]
    assert "mine " in CliRunner().invoke(app, ["presses"]).output
