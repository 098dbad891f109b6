"""Every snippet and command of the README runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pikvpress import available_experts
from pikvpress.routers import ROUTERS

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
    assert len(SNIPPETS) == 9
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


def test_the_other_commands_run_on_a_note(tmp_path):
    (tmp_path / "notes.txt").write_text("The report was written by Ada Quill. " + "It rained on the harbour. " * 60)
    others = [command for command in COMMANDS if not command.startswith("make ")]
    assert len(others) == 1
    for command in others:
        program, *arguments = shlex.split(command)
        path = Path(sys.executable).with_name(Path(program).name)
        done = subprocess.run([path, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Who wrote the report?" in done.stdout


def test_lists_are_complete():
    for name in available_experts():
        assert f"`{name}`" in README
    for name in ROUTERS:
        assert f"| `{name}`" in README


def test_links_to_files_hold():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / target).exists(), target
