"""Finish `make lock`: drop packages that torch pins itself, and record the source files of the constraints.

With this stamp the test suite can check that pyproject.toml, poetry.lock and constraints.txt match, without poetry.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = ("[project]", "[project.optional-dependencies]", "[tool.poetry.group.lock.dependencies]")
CUDA_LIBRARY = re.compile(r"^(nvidia|cuda)-")


def dependency_tables(pyproject: str) -> str:
    """Return the lines of pyproject.toml that determine what is installed."""
    kept, inside = [], False
    for line in pyproject.splitlines():
        if line.startswith("["):
            inside = line.strip() in SECTIONS
        if inside and not line.startswith(("description", "version", "keywords", "authors", "readme", "license")):
            kept.append(line.strip())
    return "\n".join(line for line in kept if line)


def stamp(pyproject: str, lock: bytes) -> list[str]:
    """Return the comment lines that name the sources of constraints.txt."""
    tables = hashlib.sha256(dependency_tables(pyproject).encode()).hexdigest()
    return [
        "# Exported from poetry.lock by `make lock`; edit pyproject.toml and run that instead of editing this file.",
        "# CUDA libraries are left out: torch pins them itself.",
        f"# pyproject.toml dependencies: sha256 {tables}",
        f"# poetry.lock: sha256 {hashlib.sha256(lock).hexdigest()}",
    ]


def main() -> None:
    path = ROOT / "constraints.txt"
    pins = [
        line
        for line in path.read_text().splitlines()
        if line and not line.startswith("#") and not CUDA_LIBRARY.match(line)
    ]
    head = stamp((ROOT / "pyproject.toml").read_text(), (ROOT / "poetry.lock").read_bytes())
    path.write_text("\n".join(head + pins) + "\n")


if __name__ == "__main__":
    main()
