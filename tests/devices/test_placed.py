"""A model on two devices compresses as on one; tensors of two devices that meet are an error, as on real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.parallel import cases, page

ROOT = Path(__file__).resolve().parents[2]
MEETING = """
import pytest, torch
from tests.devices.placed import KIND, placed_devices
with placed_devices():
    first, second = torch.arange(4.0, device=f"{KIND}:0"), torch.tensor([1, 2], device=f"{KIND}:1")
    assert (first[second.cpu()] * torch.tensor(2)).tolist() == [2, 4] and first[1].device == first.device
    assert first.to(second.device).device == second.device and first.new_tensor([3]).device == first.device
    for meet in (lambda: first[:2] + second, lambda: first[second], lambda: first + torch.ones(4)):
        with pytest.raises(RuntimeError, match="meet"):
            meet()
"""


def run(*arguments: str) -> str:
    """Run Python in a process that uses the reference of every operation, as other devices do."""
    environment = os.environ | {"PIKVPRESS_KERNELS": "reference"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_on_two_devices_compresses_as_on_one(tmp_path):
    """All in one test: the process is started once."""
    cases.write(tmp_path)
    assert json.loads(run("-m", "tests.devices.process", str(tmp_path)).splitlines()[-1]) == {}


def test_the_program_of_the_page_runs(tmp_path, monkeypatch):
    """On whatever devices there are."""
    cases.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "layer" in page.printed(tmp_path, 2) and (tmp_path / "context.pikv").exists()


def test_tensors_of_two_devices_must_not_meet():
    run("-c", MEETING)
