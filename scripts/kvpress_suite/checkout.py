"""Validation of a kvpress checkout, and whether its suite matches the installed package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RELEASES = "0.5."


@dataclass(frozen=True)
class Checkout:
    """Path and version of a kvpress checkout."""

    path: Path
    version: str


def find_checkout(path: Path | None) -> Checkout:
    """Return the checkout at a path.

    Raises
    ------
    ValueError
        If it is not a checkout, or one of another release.
    """
    way_out = f"pass a checkout of github.com/NVIDIA/kvpress, {RELEASES}x"
    if path is None or not path.is_dir():
        raise ValueError(f"there is no folder {str(path or '')!r}: {way_out}")
    project = path / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    if _setting(text, "name") != "kvpress" or not (path / "tests" / "default_presses.py").is_file():
        raise ValueError(f"{path} is not a checkout of kvpress with its tests: {way_out}")
    version = _setting(text, "version")
    if not version.startswith(RELEASES):
        raise ValueError(f"{path} is kvpress {version or 'of no version'}: {way_out}")
    return Checkout(path.resolve(), version)


def _setting(toml: str, name: str) -> str:
    """Return a text from the table `project`; Python 3.10 has no TOML parser."""
    table = re.search(r"^\[project\]$(.*?)(?=^\[|\Z)", toml, re.MULTILINE | re.DOTALL)
    found = re.search(rf'^{name}\s*=\s*"([^"]*)"', table[1], re.MULTILINE) if table else None
    return found[1] if found else ""
