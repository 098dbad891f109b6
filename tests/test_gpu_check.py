"""The check of a GPU runs on a CPU with the smallest shapes, survives what goes wrong, and says what is missing."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from packaging.requirements import Requirement

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import bars, correctness, run, timings
from benchmarks.gpu_check.sections import SECTIONS, Section, named
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels.operations import OPERATIONS

ROOT = Path(__file__).resolve().parent.parent
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses on a CPU")


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Return the tables of all sections, run as their processes run them."""
    output = tmp_path_factory.mktemp("rehearsal")
    for section in SECTIONS:
        run.main(section.name, output, rehearse=True)
    return output


@ON_CPU
def test_every_section_writes_what_the_bars_are_about(rehearsed):
    assert {path.name for path in rehearsed.glob("*")} == {
        f"{name}.csv" for name in ("correctness", "kernels", "prefill", "decoding")
    }
    for path in rehearsed.glob("*.csv"):
        rows = rows_of(path)
        assert all(row["device"] and row["torch"] and row["date"] and row["commit"] for row in rows)
        assert not any(row.get("failed") for row in rows)
    checked, timed = rows_of(rehearsed / "correctness.csv"), rows_of(rehearsed / "kernels.csv")
    assert {row["operation"] for row in checked} == {one.name for one in OPERATIONS}
    assert {row["result"] for row in checked} == {"correct"} and {row["sizes"] for row in checked} == {"small", "huge"}
    assert {row["operation"] for row in timed if row["way"] == "kernel"} == {one.name for one in OPERATIONS}
    assert all(line.verdict in ("reached", "NOT REACHED", "-") or "decoding from" in line.what
               for line in bars.lines(rehearsed))  # fmt: skip


@ON_CPU
def test_the_call_ends_with_the_bars_and_goes_on_after_what_fails(tmp_path, monkeypatch, capfd):
    scripted = {
        "crash": "import os; os.abort()",
        "hang": "import time; print('began'); time.sleep(600)",
        "packages": f"raise SystemExit({run.NOT_POSSIBLE})",
    }
    sections = [named("window scores"), *(Section(name, "", 600) for name in scripted)]
    monkeypatch.setattr(check, "SECTIONS", sections)
    start = subprocess.Popen

    def popen(command, **kwargs):
        code = scripted.get(command[3])
        return start(command if code is None else [sys.executable, "-c", code], **kwargs)

    monkeypatch.setattr(check.subprocess, "Popen", popen)
    ran = check._run

    def limited(section, output, rehearse, environment, seconds):
        return ran(section, output, rehearse, environment, 1.0 if section.name == "hang" else seconds)

    monkeypatch.setattr(check, "_run", limited)
    began = time.monotonic()
    check.main(output=tmp_path, minutes=30, wheels=tmp_path, section=None, commit="abc", rehearse=True)
    assert time.monotonic() - began < 500
    ended = {row["section"]: row["ended"] for row in rows_of(tmp_path / "sections.csv")}
    assert ended == {
        "window scores": "done",
        "crash": "failed with status -6",
        "hang": "out of time",
        "packages": "not possible without kvpress and transformers",
    }
    assert {row["commit"] for row in rows_of(tmp_path / "kernels.csv")} == {"abc"}
    shown = capfd.readouterr().out
    assert "times SnapKV's speed" in shown and "not measured" in shown and "no figure here means anything" in shown
    with pytest.raises(typer.BadParameter, match="holds the tables of another call"):
        check.main(output=tmp_path, rehearse=True)


def test_no_section_begins_when_time_is_over(tmp_path, capsys):
    check.main(output=tmp_path, minutes=0, wheels=tmp_path, section=None, commit="", rehearse=True)
    assert {row["ended"] for row in rows_of(tmp_path / "sections.csv")} == {"no time was left"}
    assert "reached" not in capsys.readouterr().out.lower()
    assert [line for line in bars.lines(tmp_path) if line.verdict != "not measured"] == []


def test_wishes_that_cannot_be_met(tmp_path, monkeypatch):
    with pytest.raises(typer.BadParameter, match="there is no section 'speed'; there are correctness, ragged"):
        check.main(output=tmp_path, section=["speed"], rehearse=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(typer.BadParameter, match="torch finds no GPU"):
        check.main(output=tmp_path)
    with pytest.raises(ValueError, match="has no columns other"):
        Setting(tmp_path, rehearse=True).add("table", ("one",), {"other": 1})


BARE = """
import importlib, sys
for name in ("kvpress", "transformers", "numba"):
    sys.modules[name] = None
from benchmarks.gpu_check.bare import missing
print(missing())
import torch
from pathlib import Path
from benchmarks.gpu_check import run, timings
from benchmarks.gpu_check.correctness import check
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels.operations import OPERATIONS
for path in Path("pikvpress/kernels").glob("*/triton.py"):
    importlib.import_module(".".join(path.with_suffix("").parts))
setting = Setting(Path(sys.argv[1]), rehearse=True)
for operation in OPERATIONS:
    if operation.name in ("received_attention", "attend"):
        check(operation, torch.float32, setting)
try:
    run.main("press", Path(sys.argv[1]), rehearse=True)
except SystemExit as end:
    print("status", end.code)
"""


def test_kernels_need_only_torch_and_triton(tmp_path):
    pytest.importorskip("triton")
    environment = {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", BARE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ModuleNotFoundError" in done.stdout.splitlines()[0] and f"status {run.NOT_POSSIBLE}" in done.stdout
    assert [row["result"] for row in rows_of(tmp_path / "correctness.csv")] == ["correct", "correct"]


def test_what_is_wrong_or_fails_is_written_and_the_rest_is_checked(tmp_path):
    setting = Setting(tmp_path, rehearse=True)
    strict = replace(OPERATIONS[0], tolerance={torch.float32: -1.0})
    correctness.check(strict, torch.float32, setting)
    correctness.check(replace(OPERATIONS[0], folder="nowhere"), torch.float32, setting)
    results = [row["result"] for row in rows_of(tmp_path / "correctness.csv")]
    assert results[0] == "wrong" and results[1].startswith("failed: ModuleNotFoundError")
    line = bars._correct(rows_of(tmp_path / "correctness.csv"), [])
    assert line.verdict == "NOT REACHED" and line.measured == "0 of 2 cases; not: received_attention"


def test_what_was_checked_before_time_was_over_is_not_all():
    rows = [{"operation": "ranks", "result": "correct"}]
    line = bars._correct(rows, [{"section": "correctness", "ended": "out of time"}])
    assert line.verdict == "not all measured" and line.measured == "1 of 1 cases; ended early"
    assert bars._correct(rows, [{"section": "correctness", "ended": "done"}]).verdict == "reached"


def test_shapes_on_a_gpu_are_those_of_use_first(tmp_path):
    (attend,) = (one for one in OPERATIONS if one.name == "attend")
    assert [shape["entries"] for shape in timings._shapes(attend, rehearse=False)][::4] == [131072, 32768, 8192]
    sizes = [size for size, _ in correctness._shapes(attend, torch.bfloat16, rehearse=False)]
    assert sizes[:9] == ["small"] + ["large"] * 8 and sizes.count("large") == len(attend.large)
    assert "large" not in [size for size, _ in correctness._shapes(attend, torch.float32, rehearse=False)]


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_bars(tmp_path):
    attend = {"operation": "attend", "way": "kernel", "median_ms": "0.1", "failed": ""}
    stored = "entries=131072 least=100 most=100 key_bits={}"
    scores = {"operation": "received_attention", "share_of_copy": "", "shape": "tokens=131072", "failed": ""}
    table(
        tmp_path / "kernels.csv",
        [attend | {"shape": stored.format(bits), "share_of_copy": share} for bits, share in ((16, "0.8"), (4, "0.5"))]
        + [attend | {"shape": "entries=8192 key_bits=16", "share_of_copy": "0.1"}]
        + [scores | {"way": "kernel", "median_ms": "1"}, scores | {"way": "kvpress SnapKV", "median_ms": "6"}],
    )
    press = "PiKVPress, 87.5 % of the bytes, PiKVCache"
    table(
        tmp_path / "prefill.csv",
        [
            {"tokens": 32768, "contender": name, "round": round_, "prefill_s": seconds}
            for round_, times in (("0", (1, 9)), ("1", (2, 2.08)), ("2", (2, 2.2)), ("3", (2, 2.04)))
            for name, seconds in zip(("full cache", press), times, strict=True)
        ],
    )
    speeds = {"full cache": {1: 10, 2: 18}, "full cache, preallocated": {1: 12}}
    speeds |= {"PiKVPress, 1/8 of the bytes, PiKVCache": {1: 20, 2: 54, 16: 90}}
    table(
        tmp_path / "decoding.csv",
        [
            {"tokens": 131072, "contender": name, "batch": batch, "tokens_per_s": speed}
            for name, of_name in speeds.items()
            for batch, speed in of_name.items()
        ],
    )
    lines = {line.what: (line.measured, line.verdict) for line in bars.lines(tmp_path)}
    whole = "100 to 100 % of 131,072 entries"
    after = "decoding after 131,072 tokens"
    assert lines == {
        "kernels that agree with their references": ("not measured",) * 2,
        f"ragged attention, exact, {whole}": ("80% (0.1 ms)", "reached"),
        f"ragged attention, int4, {whole}": ("50% (0.1 ms)", "NOT REACHED"),
        "ragged attention, rotated": ("not measured",) * 2,
        "window scores, 131,072 keys": ("6.0 times", "reached"),
        "MoERouterPress, 50 %": ("not measured",) * 2,
        f"{press}, 32,768 tokens": ("adds 4.0%, 3 rounds", "reached"),
        f"{after}, 1/8 of the bytes, batch 2": ("3.00 times", "NOT REACHED"),
        f"{after}, each in its best batch": (
            "5.00 times (90 tokens/s in a batch of 16, 18 of 2)",
            "reached",
        ),
        f"{after}, largest batch": ("16, full cache 2", "-"),
        "decoding from 1/8 of the bytes": ("not measured",) * 2,
    }


def test_wheels_are_those_that_everything_else_is_tested_with():
    lines = [line for line in (ROOT / "gpu-wheels.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {str(pin.name): str(pin.specifier) for pin in map(Requirement, (line.split("#")[0] for line in lines))}
    constraints = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    tested = {pin.name: str(pin.specifier) for pin in constraints}
    assert {"kvpress", "transformers", "tokenizers", "gguf"} <= set(pins)
    others = pins.keys() - {"fire"}  # the release that is tested has no wheel
    assert {name: pins[name] for name in others} == {name: tested[name] for name in others}
