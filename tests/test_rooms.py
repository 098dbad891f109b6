"""Imports between parts of the package go one way, as docs/design.md lists them."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pikvpress"
ENTRANCES = ("__init__", "cli", "cli_adapt", "cli_store")  # entry points for users, which import everything


def room_of(path: Path) -> str:
    """Return the part of the package that a file belongs to: a folder, or a module beside the folders."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, except those only for type checkers."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            of_package = node.module == "pikvpress"
            names += [f"pikvpress.{alias.name}" if of_package else str(node.module) for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("pikvpress.")}
    return {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()}


def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        if room not in ENTRANCES:
            found.setdefault(room, set()).update(imported(path) - {room})
    return found


def test_no_room_imports_one_that_imports_it():
    order = [*TopologicalSorter(arrows()).static_order()]  # raises CycleError, which names the parts
    assert order.index("kernels") < order.index("experts") < order.index("presses")


def test_the_design_says_which_room_uses_which():
    page = (ROOT / "docs/design.md").read_text()
    table = {}
    for room, uses in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.+) \|$", page, flags=re.MULTILINE):
        for name in re.findall(r"`(\w+)`", room):
            table[name] = set(re.findall(r"`(\w+)`", uses))
    found = arrows()
    leaves = {room for room, uses in found.items() if not uses}
    assert {room: uses for room, uses in found.items() if uses} == {room: uses for room, uses in table.items() if uses}
    assert {room for room, uses in table.items() if not uses} <= leaves


def test_the_package_knows_neither_harness_nor_benchmarks():
    outside = re.compile(r"^\s*(from|import) (evaluation|benchmarks|scripts|tests)\b", re.MULTILINE)
    assert not [path for path in PACKAGE.rglob("*.py") if outside.search(path.read_text())]
