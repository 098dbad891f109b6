"""Compilers reject code that the interpreter accepts, so every kernel is compiled for GPUs, without needing one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kernels.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]


def test_kernels_compile_for_three_generations_of_gpus(tmp_path):
    triton = pytest.importorskip("triton")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this build of Triton brings no compiler for NVIDIA's GPUs")
    # In a separate process, since Triton interprets kernels in this one.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.kernels.compiled"]
    command += ["--capability", "89", "--capability", "90", "--capability", "100"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line.split() for line in done.stdout.splitlines()]
    for operation in OPERATIONS:
        lines = [words for words in shown if words and words[0] == operation.name]
        assert len(lines) >= 6 and all(words[-4].endswith("_kernel") and int(words[-3]) > 0 for words in lines)
