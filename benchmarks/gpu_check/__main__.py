"""Everything that has to be known from a GPU, in one call: correctness first, then speed in order of worth.

python -m benchmarks.gpu_check [--output FOLDER] [--minutes 9.5] [--wheels FOLDER] [--commit NAME] [--rehearse]

Each section runs in a process of its own until its time is up, and writes its tables as it goes, so that what crashes,
hangs or is killed costs no more than itself. The last thing printed is a table of what was measured beside what was
aimed for. With `--rehearse`, the same runs on a CPU with the smallest shapes, kernels in Triton's interpreter.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.gpu_check.bars import table
from benchmarks.gpu_check.run import NOT_POSSIBLE
from benchmarks.gpu_check.sections import SECTIONS, Section
from benchmarks.gpu_check.sections import named as section_named
from benchmarks.kernels.machine import COMMIT, ROOT

CLOSING = 5  # seconds that are left for the table at the end


def main(
    output: Annotated[Path, typer.Option(help="Folder for the tables, which must not hold any yet.")] = Path(
        "gpu-check"
    ),
    minutes: Annotated[float, typer.Option(help="After which the call ends.")] = 9.5,
    wheels: Annotated[Path, typer.Option(help="Folder of wheels to use, if it is there.")] = ROOT / "gpu-wheels",
    section: Annotated[list[str] | None, typer.Option(help="Only this section; repeatable.")] = None,
    commit: Annotated[str, typer.Option(help="Commit for the tables, where there is no git.")] = "",
    rehearse: Annotated[bool, typer.Option(help="Run on a CPU, with the smallest shapes.")] = False,
) -> None:
    """Check and time everything on a GPU."""
    deadline = time.monotonic() + 60 * minutes
    if not rehearse and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no GPU: run this on a machine that has one, or add --rehearse")
    try:
        chosen = [section_named(name) for name in section] if section else list(SECTIONS)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    output = output.resolve()
    if list(output.glob("*.csv")):
        raise typer.BadParameter(f"{output} holds the tables of another call: choose another folder with --output")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as site:
        environment = _environment(Path(site), wheels, commit, rehearse)
        for one in chosen:
            began = time.monotonic()
            seconds = deadline - began - CLOSING
            seconds = seconds if rehearse else min(one.seconds, seconds)
            print(f"\n== {one.name}: at most {max(seconds, 0):.0f} s", flush=True)
            ended = _run(one, output, rehearse, environment, seconds) if seconds > 0 else "no time was left"
            print(f"== {one.name}: {ended} after {time.monotonic() - began:.0f} s", flush=True)
            _note(output, one, ended, time.monotonic() - began)
    title = "rehearsal: no figure here means anything" if rehearse else torch.cuda.get_device_name()
    Console(width=150).print(table(output, title))


def _environment(site: Path, wheels: Path, commit: str, rehearse: bool) -> dict[str, str]:
    """Return the environment of sections, in which wheels are installed without changing the machine's packages."""
    added = {"PYTHONUNBUFFERED": "1"} | ({COMMIT: commit} if commit else {})
    if rehearse:
        added |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    folders = [str(ROOT)]
    found = sorted(map(str, wheels.glob("*.whl")))
    if found:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        done = subprocess.run([*install, "--disable-pip-version-check", "--target", str(site), *found])
        print(f"{len(found)} wheels: {'installed' if done.returncode == 0 else 'could not be installed'}", flush=True)
        folders.insert(0, str(site))
    folders += [path for path in [os.environ.get("PYTHONPATH")] if path]
    return os.environ | added | {"PYTHONPATH": os.pathsep.join(folders)}


def _run(section: Section, output: Path, rehearse: bool, environment: dict[str, str], seconds: float) -> str:
    """Run a section in its own process, with those that it starts, and return how it ended."""
    command = [sys.executable, "-m", "benchmarks.gpu_check.run", section.name, "--output", str(output)]
    command += ["--rehearse"] if rehearse else []
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        _end(process)
    if status == NOT_POSSIBLE:
        return "not possible without kvpress and transformers"
    return "done" if status == 0 else f"failed with status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _note(output: Path, section: Section, ended: str, seconds: float) -> None:
    path = output / "sections.csv"
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["section", "ended", "seconds"])
        writer.writerow([section.name, ended, f"{seconds:.1f}"])


if __name__ == "__main__":
    typer.run(main)
