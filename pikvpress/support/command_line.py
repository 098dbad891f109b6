"""What commands have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ModelOption = Annotated[
    str | None, typer.Option(help="A folder, a GGUF file or a hub name. Default: SmolLM2-135M-Instruct, included.")
]

TextsOption = Annotated[
    list[Path] | None, typer.Option(help="A text file, or a folder of them; repeatable. Default: those that ship.")
]


@contextmanager
def told() -> Iterator[None]:
    """End with status 2 and one line for an error of the user's, and pass on all others."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def progress_bar() -> Progress:
    """Return a progress bar for a terminal; in a log it shows nothing, and `say` prints lines instead."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def say(bar: Progress, step: str) -> None:
    """Print a step on a line of its own if there is no progress bar."""
    if bar.disable:
        bar.console.print(step, markup=False, highlight=False)
