"""Running code in a process in which kvpress cannot be imported, as where it is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kvpress":
            raise ModuleNotFoundError(f"No module named {name!r}", name="kvpress")

sys.meta_path.insert(0, Missing())
"""


def run(code: str, block: str = BLOCK) -> str:
    """Return what a program prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block + code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
