"""Runs the suite, each pass in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.kvpress_suite.checkout import Checkout
from scripts.kvpress_suite.passes import Pass
from scripts.kvpress_suite.records import Record, read

ROOT = Path(__file__).resolve().parents[2]
# Exit statuses of pytest that say that tests were run: all passed, some failed.
RAN = (0, 1)


def run_pass(which: Pass, checkout: Checkout, folder: Path, selection: Sequence[str] = ()) -> dict[str, Record]:
    """Run the suite in one pass, and return what is written down of each test.

    Parameters
    ----------
    which : Pass
        The pass.
    checkout : Checkout
        Whose suite.
    folder : Path
        For the records, and what pytest prints.
    selection : sequence of str
        More arguments for pytest, such as ``-k adakv``.

    Raises
    ------
    RuntimeError
        If pytest could not run it.
    """
    records, printed = folder / f"{which.name}.jsonl", folder / f"{which.name}.txt"
    records.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "scripts.kvpress_suite.plugin", "-p", "no:cacheprovider"]
    command += ["--quiet", "--tb=short", "--rootdir", str(checkout.path), "-c", str(checkout.path / "pyproject.toml")]
    command += ["--kvpress-pass", which.name, "--kvpress-checkout", str(checkout.path)]
    command += ["--kvpress-records", str(records), str(checkout.path / "tests"), *selection]
    # From our root, whose `tests` give way to the checkout's. Nothing is asked of a hub, nor written beside the tests.
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)}
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet | threads, capture_output=True, text=True)
    printed.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode not in RAN or not records.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{printed.read_text(encoding='utf-8')[-2000:]}")
    return read(records)
