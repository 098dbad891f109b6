"""Files, functions and signatures stay small enough to read, except in kernels; class names are unique."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for room in ("pikvpress", "evaluation", "benchmarks", "scripts") for path in (ROOT / room).rglob("*.py")]
OTHERS = [path for path in FILES if "kernels" not in path.parts]
LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 8


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


def is_command(function: ast.FunctionDef) -> bool:
    """Return whether a function is a command: typer reads the options from its signature."""
    return any("app.command" in ast.unparse(decorator) for decorator in function.decorator_list)


def parameters(function: ast.FunctionDef) -> int:
    listed = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return len([argument for argument in listed if argument.arg not in ("self", "cls")])


@pytest.mark.parametrize(
    "path", [path for path in FILES if "kernels" not in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= LINES
    for function in functions(path):
        assert function.end_lineno - function.lineno < FUNCTION_LINES, function.name
        assert parameters(function) <= PARAMETERS or is_command(function), function.name


def test_no_two_classes_share_a_name():
    names = Counter(
        node.name
        for path in FILES
        if path.parts[len(ROOT.parts)] in ("pikvpress", "evaluation")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("room", ["pikvpress", "evaluation"])
def test_every_module_has_a_test_of_its_name(room):
    """`tests/a/test_b.py` tests `a/b.py`; an operation or benchmark of several files has one for its folder."""
    missing = []
    for path in (ROOT / room).rglob("*.py"):
        inside = path.relative_to(ROOT / room if room == "pikvpress" else ROOT)
        folder = ROOT / "tests" / inside.parent
        own, of_folder = folder / f"test_{path.stem}.py", folder.parent / f"test_{folder.name}.py"
        is_one_thing = {"kernels", "benchmarks"} & {*inside.parent.parent.parts}
        if not path.stem.startswith("__") and not own.exists() and not (is_one_thing and of_folder.exists()):
            missing.append(str(inside))
    assert missing == []
