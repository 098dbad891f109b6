"""The folders import only from those before them: data, measure, fit, report."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pikvpress.calibration

ROOM = Path(pikvpress.calibration.__file__).parent
ORDER = ("data", "measure", "fit", "report")
SHARED = {"recipe", "steps"}  # used by all of them


def imported(path: Path) -> set[str]:
    """Return the folders and modules of the calibration that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            of_room = node.module == "pikvpress.calibration"
            names += [f"{node.module}.{alias.name}" if of_room else str(node.module) for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[2] for name in names if name.startswith("pikvpress.calibration.")}


def test_folders_import_only_what_is_to_their_left():
    for place, folder in enumerate(ORDER):
        allowed = SHARED | set(ORDER[: place + 1])
        files = [*(ROOM / folder).rglob("*.py")]
        assert files
        for path in files:
            assert imported(path) <= allowed, path


def test_what_all_are_told_by_imports_none_of_them():
    assert not any(imported(ROOM / f"{name}.py") for name in SHARED)


def test_nothing_else_is_in_the_room():
    folders = {path.parent.name for path in ROOM.glob("*/*.py")}
    assert folders == set(ORDER)
    assert {path.stem for path in ROOM.glob("*.py")} == SHARED | {"__init__", "calibrate"}


def test_each_folder_uses_the_one_before():
    """Otherwise the test of the order would check nothing."""
    for before, folder in itertools.pairwise(ORDER):
        assert any(before in imported(path) for path in (ROOM / folder).rglob("*.py"))
