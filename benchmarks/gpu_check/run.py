"""One section, in this process; `python -m benchmarks.gpu_check` starts it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu_check.bare import missing
from benchmarks.gpu_check.sections import named
from benchmarks.gpu_check.setting import Setting

NOT_POSSIBLE = 3  # exit status where a package is missing


def main(
    section: Annotated[str, typer.Argument(help="Name of the section.")],
    output: Annotated[Path, typer.Option(help="Folder of the tables.")],
    rehearse: bool = False,
) -> None:
    """Run a section."""
    chosen = named(section)
    reason = missing()
    if reason is not None:
        print(f"pikvpress cannot be imported, only its kernels: {reason}", flush=True)
        if chosen.whole:
            sys.exit(NOT_POSSIBLE)
    chosen.run(Setting(output, rehearse))


if __name__ == "__main__":
    typer.run(main)
