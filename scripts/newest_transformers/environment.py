"""The newest transformers in a folder of its own, in front of the installed packages, and kvpress out of reach."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WHEELS = ROOT / "newest-wheels.txt"

# Python imports this file when it starts, before anything else can import kvpress.
WITHOUT_KVPRESS = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kvpress":
            raise ModuleNotFoundError(f"No module named {name!r}", name="kvpress")

sys.meta_path.insert(0, Missing())
"""


def install(folder: Path) -> str:
    """Install the wheels into an empty folder, without their dependencies.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    str
        What pip says if it fails, for example because there is no network; otherwise an empty string.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(folder), "--requirement", str(WHEELS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "sitecustomize.py").write_text(WITHOUT_KVPRESS)
    return done.stderr.strip() if done.returncode else ""


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with what `install` has put into a folder, from the root of the checkout."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
