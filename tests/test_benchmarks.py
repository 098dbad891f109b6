"""The speed measurements run, on inputs too small for meaningful results."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
import typer
import yaml

from benchmarks import (
    adapted,
    decoding,
    end_to_end,
    held_bytes,
    pictures,
    prefill_cost,
    schedulers,
    sharing,
    store,
    tiers,
)
from benchmarks.kernels import __main__ as kernels
from benchmarks.kernels.floor import Speed
from benchmarks.kernels.machine import ROOT
from benchmarks.kernels.operation import Work, named
from benchmarks.kernels.operations import OPERATIONS
from benchmarks.stand_in_gates import write_gates
from pikvpress import MoERouterPress, PiKVCache
from pikvpress.adaptation import AdaptationRecipe
from pikvpress.adaptation.adapter import adapter_on, save_adapter
from pikvpress.routing import features
from tests.adaptation.helpers import fill
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer


def test_the_cost_table(capsys):
    prefill_cost.main(tokens=128, rounds=1)
    shown = capsys.readouterr().out
    assert "MoERouterPress" in shown and "prefill of 128 tokens" in shown and "%" in shown


def test_the_sharing_table(capsys):
    sharing.main(length=256, rounds=1)
    shown = capsys.readouterr().out
    assert "10 presses at 4 ratios, one prefill" in shown and "times one press" in shown


def test_the_decoding_table(capsys):
    decoding.main(tokens=200, new=2, rounds=1)
    shown = capsys.readouterr().out
    assert all(name in shown for name in decoding.CONTENDERS) and "packing a layer at 4 bits" in shown


def test_the_schedulers_table(capsys):
    schedulers.main(held=256, new=4, rounds=1, scheduler=["h2o", "quest"])
    shown = capsys.readouterr().out
    assert "4 tokens at 256 entries a head" in shown and "h2o" in shown and "quest" in shown and "lru" not in shown
    with pytest.raises(ValueError, match="unknown scheduler 'h20'"):
        schedulers.main(scheduler=["h20"])


def test_the_table_of_bytes_held(capsys):
    held_bytes.table(tokens=1024, layers=2)
    shown = capsys.readouterr().out
    assert "seen / planned" in shown and "0.9375" in shown


def test_the_table_of_stored_contexts(capsys):
    store.main(tokens=200, rounds=1)
    shown = capsys.readouterr().out
    assert all(name in shown for name in store.PRESSES) and "digest of the weights" in shown


def test_the_table_of_tiers(capsys, monkeypatch):
    names = ("exact, all on the device", "exact, 25 % device, 75 % file", "DynamicCache(offloading=True)")
    monkeypatch.setattr(tiers, "CONTENDERS", {name: tiers.CONTENDERS[name] for name in names})
    tiers.table(tokens=256, layers=4, new=2, rounds=1)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names) and "4 layers of 8 heads of 64, 256 entries" in shown


def test_the_table_of_an_adapter(tmp_path, capsys, monkeypatch):
    model = make_tiny("llama")
    with adapter_on(model, AdaptationRecipe(rank=2)) as found:
        fill(found, 0.05)
        save_adapter(found, tmp_path / "adapter")
    study = yaml.safe_load((ROOT / "evaluation/studies/bytes-fidelity.yaml").read_text())
    study["benchmarks"][0] |= {"lengths": [256], "samples": 1, "tasks": ["needle", "prose"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.setattr(adapted, "load_model", lambda name: (model, make_tokenizer()))
    adapted.main(tmp_path / "adapter", tmp_path / "study.yaml", [0.9375])
    shown = capsys.readouterr().out
    assert "nats/token), 2 contexts" in shown and "1/16" in shown and "worst task: " in shown


@pytest.mark.parametrize("measured", [schedulers.main, sharing.main, store.main, tiers.table])
def test_rounds_are_needed(measured):
    with pytest.raises(ValueError, match="at least 1 round"):
        measured(rounds=0)


def test_operations_are_timed_beside_their_rivals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "OPERATIONS", [replace(one, large=one.small[:1], on_cpu=()) for one in OPERATIONS])
    kernels.main(calls=1, output=tmp_path / "kernels.csv")
    with (tmp_path / "kernels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["operation"] for row in rows} == {one.name for one in OPERATIONS}
    assert {row["operation"] for row in rows if row["way"] == "compiled"} == {"attend"}
    assert all(float(row["median_ms"]) > 0 and row["torch"] and row["date"] for row in rows)
    assert "kvpress SnapKV" in capsys.readouterr().out


def test_an_operation_that_there_is_not_is_named():
    with pytest.raises(typer.BadParameter, match="there is no operation 'blur'; there are received_attention"):
        named(OPERATIONS, ["ranks", "blur"])
    assert [one.name for one in named(OPERATIONS, ["ranks"])] == ["ranks"] and named(OPERATIONS, None) == [*OPERATIONS]


def test_what_is_wrong_is_not_timed(monkeypatch):
    operation = replace(OPERATIONS[0], tolerance={torch.float32: -1.0}, dtypes=(torch.float32,))
    monkeypatch.setattr(kernels, "time_calls", None)
    (row,) = kernels.timed(operation, operation.small[0], torch.float32, "cpu", 1, Speed(1, 1), ours="kernel")
    assert row["way"] == "wrong" and "median_ms" not in row


def test_a_rival_that_fails_is_told_apart():
    assert kernels._tried(lambda: 1 / 0, [{}], 1, "cpu") == "ZeroDivisionError: division by zero"


def test_the_floor_is_what_takes_longer():
    assert Speed(bytes_per_ms=10, flops_per_ms=100).floor(Work(bytes=100, flops=100)) == 10
    assert Speed(bytes_per_ms=10, flops_per_ms=100).floor(Work(bytes=1, flops=2000)) == 20


@pytest.mark.parametrize("looks", [False, True])
def test_stand_in_gates_ask_for_what_fitted_ones_do(tmp_path, monkeypatch, looks):
    measured = []
    collect = features.collect
    monkeypatch.setattr(features, "collect", lambda *inputs: measured.append(inputs) or collect(*inputs))
    model, path = end_to_end.make_model("tiny"), tmp_path / "gates.safetensors"
    write_gates(model, end_to_end.EXPERTS, path, looks)
    press, cache = MoERouterPress(0.5, gates=path), PiKVCache()
    with torch.no_grad(), press(model):
        model(input_ids=torch.randint(model.config.vocab_size, (1, 200)), past_key_values=cache)
    assert bool(measured) == looks
    kept = [count for layer in press.plan.layers for count in layer.head_tokens]
    assert len(set(kept)) > 1 and sum(kept) == 100 * len(kept)


def test_the_end_to_end_table(tmp_path, capsys):
    end_to_end.main(tokens=[128], shape="tiny", new=2, rounds=1, output=tmp_path / "table.csv")
    shown = capsys.readouterr().out
    assert "PiKVPress" in shown and "tokens_per_s" in shown
    with (tmp_path / "table.csv").open() as file:
        assert [row["contender"] for row in csv.DictReader(file)] == list(end_to_end.contenders(tmp_path))
    pictures.main([tmp_path / "table.csv"])
    assert {path.name for path in tmp_path.glob("*.png")} == {"table-light.png", "table-dark.png"}


def test_tables_of_operations_are_drawn(tmp_path):
    table = next((ROOT / "benchmarks/results").glob("kernels-*.csv"))
    with table.open() as file:
        panels = list(pictures._operations(list(csv.DictReader(file))))
    (first, *_) = panels
    assert first.title.startswith("received_attention, 8,192 keys") and first.bars[0][0] == "reference"
    assert ("eager", None, "out of memory") in [bar for panel in panels for bar in panel.bars]
    (tmp_path / "empty.csv").write_text("operation,shape\n")
    with pytest.raises(typer.BadParameter, match="has no rows"):
        pictures.main([tmp_path / "empty.csv"])
