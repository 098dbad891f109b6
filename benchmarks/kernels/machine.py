"""The machine and versions of a timing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "BENCHMARK_COMMIT"  # environment variable that names the commit where the checkout has lost its history
DESCRIBE = "describe --always --dirty --abbrev=12"


def describe(device: str) -> dict[str, str]:
    """Return the device, driver, versions, date and commit, as columns of a table."""
    import triton

    on_gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "driver": _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else "",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": date.today().isoformat(),
        "commit": os.environ.get(COMMIT) or _printed("git", "-C", str(ROOT), *DESCRIBE.split()),
    }


def _printed(program: str, *arguments: str) -> str:
    """Return the first line that a program prints, or an empty text if it is missing or fails."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.stdout.strip().split("\n")[0]
