"""Run the suite, with one process per pass."""

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
# Exit statuses of pytest if tests were run: all passed, some failed.
RAN = (0, 1)


def run_pass(which: Pass, checkout: Checkout, folder: Path, selection: Sequence[str] = ()) -> dict[str, Record]:
    """Run the suite in one pass, and return the records of the tests.

    Parameters
    ----------
    which : Pass
        The pass.
    checkout : Checkout
        Checkout with the suite.
    folder : Path
        Folder for the records and pytest's output.
    selection : sequence of str
        Additional arguments for pytest, such as ``-k adakv``.

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
    # From our root, with the checkout's `tests` before ours. No hub is contacted, and nothing is written to the tests.
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)}
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet | threads, capture_output=True, text=True)
    printed.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode not in RAN or not records.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{printed.read_text(encoding='utf-8')[-2000:]}")
    return read(records)
