"""Importing the package loads what kvpress loads, its own modules, and nothing heavy beyond that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import importlib.metadata, json, sys
import kvpress
known = importlib.metadata.version
def version(name):
    if name == "pikvpress":  # as in a checkout that is not installed
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version
before = set(sys.modules)
import pikvpress
print(pikvpress.__version__)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_importing_loads_only_what_presses_and_caches_need():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, modules = done.stdout.splitlines()[-2:]
    added = json.loads(modules)
    assert version == "unknown"
    assert [name for name in added if name.split(".")[0] != "pikvpress"] == []
    parts = {name.split(".")[1] for name in added if "." in name}
    assert {"presses", "cache"} <= parts and not parts & {"calibration", "cli", "demo", "default_model"}
    assert [name for name in added if name.endswith(".triton")] == []  # compiled kernels are loaded when first used
