"""Every snippet and command of the README runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pikvpress import available_experts
from pikvpress.calibration.texts import shipped_texts
from pikvpress.routers import ROUTERS
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_all_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    assert len(SNIPPETS) == 11
    for number, snippet in enumerate(SNIPPETS, start=1):
        exec(compile(snippet, f"README snippet {number}", "exec"), namespace)
    assert (tmp_path / "plan.png").exists() and (tmp_path / "plan.json").exists()
    assert namespace["outputs"].shape[1] == namespace["inputs"]["input_ids"].shape[1] + 8


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_knows_its_targets(command):
    """The targets themselves are what CI runs, or, for `make demo`, the test below."""
    listed = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


def test_what_make_demo_runs_runs(tmp_path):
    listed = subprocess.run(
        ["make", "demo", "--dry-run", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = listed.stdout.strip().splitlines()[-1]
    assert command == ".venv/bin/pikvpress demo"
    program = Path(sys.executable).with_name("pikvpress")
    done = subprocess.run([program, "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 questions about a document" in done.stdout
    assert (tmp_path / "routing.png").exists()


def run_as_written(command: str, folder: Path) -> str:
    """Run a command of the README in a folder of its own and return what it prints."""
    program, *arguments = shlex.split(command)
    path = Path(sys.executable).with_name(Path(program).name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the README's reader stands in the checkout
    done = subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_note_is_asked_about(tmp_path):
    (tmp_path / "notes.txt").write_text("The report was written by Ada Quill. " + "It rained on the harbour. " * 60)
    (command,) = (command for command in COMMANDS if command.startswith(".venv/bin/pikvpress demo"))
    assert "Who wrote the report?" in run_as_written(command, tmp_path)


def test_a_model_is_calibrated(tmp_path, monkeypatch):
    """As the README says it, on a tiny model and with shorter contexts, so that it takes seconds."""
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    make_tiny("llama", seed=31).save_pretrained(tmp_path)
    words = sorted({word for text in shipped_texts() for word in re.findall(r"\w+|[^\w\s]", text)})[:480]
    make_tokenizer(vocabulary=words).save_pretrained(tmp_path)
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(shipped_texts()[:4]):
        (tmp_path / f"texts/{number}.txt").write_text(text)
    (command,) = (command for command in COMMANDS if command.startswith(".venv/bin/pikvpress calibrate"))
    shorter = " --length 256 --minutes 0.01 --router base --expert keydiff --expert knorm"
    printed = run_as_written(command + shorter, tmp_path)
    assert "gates: " in printed and (tmp_path / "calibration/calibration.html").exists()
    assert len(list((tmp_path / "gates").iterdir())) == 1


def test_the_harness_runs_and_reports(tmp_path):
    run, report, presses = (command for command in COMMANDS if command.startswith(".venv/bin/python "))
    run_as_written(run, tmp_path)
    study = yaml.safe_load((tmp_path / "results/first/study.yaml").read_text())
    assert study["benchmarks"][0]["label"] == "ruler-11" and study["benchmarks"][0]["samples"] == {"1024": 11}
    assert (tmp_path / "results/first/ruler-11__1024__SmolLM2-135M-Instruct__moe_router__0.50__fraction0.040").is_dir()
    assert "report.html" in run_as_written(report, tmp_path)
    assert "moe_router" in run_as_written(presses, tmp_path)
    assert len(COMMANDS) == 5 + len([command for command in COMMANDS if command.startswith("make ")])


def test_lists_are_complete():
    for name in available_experts():
        assert f"`{name}`" in README
    for name in ROUTERS:
        assert f"| `{name}`" in README


def test_links_to_files_hold():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / target).exists(), target
