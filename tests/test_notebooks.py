"""The notebooks run from the first cell to the last."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=path.parent.parent)
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    figures = {
        (ratio, name): float(value)
        for ratio, block in re.findall(r"(\d+)% removed\n((?:  .*\n)+)", printed)
        for name, value in re.findall(r"  (\S.*?) +([\d.]+)\n", block)
    }
    for ratio in ("50", "75"):
        best = min(figures[ratio, name] for name in ("Compactor", "ExpectedAttention", "KeyDiff"))
        assert figures[ratio, "router, fitted, fitted budgets"] < best / 2
