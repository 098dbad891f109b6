"""What commands have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None, typer.Option(help="A folder, a GGUF file or a hub name. Default: SmolLM2-135M-Instruct, included.")
]


@contextmanager
def told() -> Iterator[None]:
    """End with status 2 and one line for an error of the user's, and pass on all others."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
