"""Importing the package loads what kvpress loads, its own modules, and nothing heavy beyond that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import json, sys
import kvpress
before = set(sys.modules)
import pikvpress
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_importing_loads_only_what_presses_and_caches_need():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in added if name.split(".")[0] != "pikvpress"] == []
    parts = {name.split(".")[1] for name in added if "." in name}
    assert {"presses", "cache"} <= parts and not parts & {"calibration", "cli", "demo", "default_model"}
    assert [name for name in added if name.endswith(".triton")] == []  # compiled kernels are loaded when first used
