"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def run(name: str) -> tuple[str, int]:
    """Run a notebook; return what it prints and how many pictures it shows."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "clear the outputs"
    NotebookClient(notebook, timeout=1200, kernel_name="python3").execute(cwd=FOLDER.parent)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    return printed, sum("image/png" in output.get("data", {}) for output in outputs)


def test_every_notebook_is_run_here():
    tested = re.findall(r'run\("(\w+)"\)', Path(__file__).read_text())
    assert sorted(tested) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_first_steps():
    printed, pictures = run("first_steps")
    assert printed.count("answer:") == 2 and "layer" in printed and pictures == 1
    before, after = (int(number.replace(",", "")) for number in re.findall(r"(?:before|after): ([\d,]+)", printed))
    assert 0.45 * before < after < 0.55 * before


def test_choose_a_press():
    printed, pictures = run("choose_a_press")
    assert "report.html" in printed and pictures == 1
    assert len(re.findall(r"ratio 0\.\d+: \d+\.\d\d of (?:knorm|keydiff)", printed)) == 2


def test_your_own_expert_and_router():
    printed, pictures = run("your_own_expert_and_router")
    assert re.search(r"novelty +0\.\d\d", printed) and pictures == 1
    base, cautious = (float(weight) for weight in re.findall(r"in the mean: (0\.\d\d)", printed))
    assert cautious < base


def test_calibrate():
    printed, pictures = run("calibrate")
    assert pictures == 1
    figures = {
        (ratio, name): float(value)
        for ratio, block in re.findall(r"(\d+)% removed\n((?:  .*\n)+)", printed)
        for name, value in re.findall(r"  (\S.*?) +([\d.]+)\n", block)
    }
    for ratio in ("50", "75"):
        best = min(figures[ratio, name] for name in ("Compactor", "ExpectedAttention", "KeyDiff"))
        assert figures[ratio, "router, fitted, fitted budgets"] < best / 2
