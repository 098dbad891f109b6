"""The commands `pikvpress store ...`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pikvpress.support.command_line import ModelOption, told

if TYPE_CHECKING:
    from pikvpress.store import FolderStore, StoredContext

DIGITS = 12  # of a key that are shown

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the store.")]
KeyArgument = Annotated[str, typer.Argument(help="Key of a context, or its first digits, as `ls` shows them.")]

app = typer.Typer(no_args_is_help=True, help="Keep contexts in a folder, so that they are read only once.")

# In all commands, what needs torch is imported late: loading it takes seconds, and `--help` should not.


@app.command("ls")
def list_contexts(folder: FolderArgument) -> None:
    """List what is stored, the most recently used first."""
    with told():
        store = _store(folder)
        table = Table(box=SIMPLE)
        for heading in ("key", "tokens", "KiB", "last used", "model", "press"):
            table.add_column(heading, justify="right" if heading in ("tokens", "KiB") else "left")
        for one in store.contexts():
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used))
            size = f"{one.nbytes / 1024:,.0f}"
            table.add_row(one.key.digest[:DIGITS], f"{one.key.length:,}", size, used, *_about(one))
        Console(width=120).print(table)
        typer.echo(f"{len(store.contexts())} contexts, {store.nbytes:,} bytes")


@app.command()
def put(
    folder: FolderArgument,
    document: Annotated[list[Path], typer.Argument(help="Text files.")],
    model: ModelOption = None,
    ratio: Annotated[
        float, typer.Option(help="Share of the bytes that PiKVPress removes; 0: everything stays, without a press.")
    ] = 0.875,
    max_bytes: Annotated[int | None, typer.Option(help="Size of the store; the least recently used go first.")] = None,
) -> None:
    """Read texts and store them, as contexts that kvpress's pipeline finds again with PiKVPress and a PiKVCache."""
    with told():
        texts = [path.read_text(encoding="utf-8") for path in document]
        empty = [path for path, text in zip(document, texts, strict=True) if not text.strip()]
        if empty:
            raise ValueError(f"{empty[0]} is empty: there is nothing to read")

        import torch

        from pikvpress import PiKVCache, PiKVPress
        from pikvpress.default_model import load_model
        from pikvpress.store import FolderStore
        from pikvpress.store.pipeline import StoringPipeline

        press = PiKVPress(compression_ratio=ratio) if ratio else None
        store = FolderStore(folder, max_bytes)
        loaded, tokenizer = load_model(model)
        pipe = StoringPipeline(model=loaded, tokenizer=tokenizer)
        longest = min(tokenizer.model_max_length, 10**10)
        for path, text in zip(document, texts, strict=True):
            context = pipe.preprocess(text, [""], "", longest)["context_ids"]
            with torch.no_grad(), store.reading(loaded, press, prefix_share=1.0) as reading:
                loaded.model(input_ids=context.to(loaded.device), past_key_values=PiKVCache())
            if reading.failure is not None:
                raise reading.failure
            typer.echo(f"{path}: {reading.length:,} tokens {'known already' if reading.known else 'stored'}")


@app.command()
def get(
    folder: FolderArgument,
    key: KeyArgument,
    output: Annotated[Path, typer.Argument(help="File to write, for PiKVCache.load.")],
) -> None:
    """Copy a stored context to a file of its own."""
    with told():
        from pikvpress.support.whole_file import whole_file

        one = _one(_store(folder), key)
        if not output.parent.is_dir():
            raise ValueError(f"{output.parent} is not a folder: create it, or write elsewhere")
        with whole_file(output) as partial:
            shutil.copyfile(one.path, partial)


@app.command()
def rm(
    folder: FolderArgument,
    key: Annotated[list[str] | None, typer.Argument(help="Keys of contexts, or their first digits.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all contexts.")] = False,
) -> None:
    """Remove stored contexts."""
    with told():
        if bool(key) == everything:
            raise ValueError("name the contexts to remove, or pass --all: one of the two")
        store = _store(folder)
        chosen = store.contexts() if everything else [_one(store, one) for one in key or []]
        for one in chosen:
            store.remove(one.key)
        typer.echo(f"{len(chosen)} contexts removed")


@app.command()
def verify(folder: FolderArgument) -> None:
    """Read everything that is stored, and name what is damaged; the status is then 1."""
    with told():
        store = _store(folder)
        damaged = store.damaged()
    for one, error in damaged:
        typer.echo(f"{one.key.digest[:DIGITS]}: {error}")
    typer.echo(f"{len(store.contexts())} contexts, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


def _store(folder: Path) -> FolderStore:
    from pikvpress.store import FolderStore

    return FolderStore(folder, create=False)


def _one(store: FolderStore, key: str) -> StoredContext:
    """Return the only stored context whose key begins so."""
    found = [one for one in store.contexts() if one.key.digest.startswith(key)]
    if len(found) != 1 or not key:
        many = "no context" if not found else f"{len(found)} contexts"
        raise ValueError(f"{many} in {store.path} with a key that begins with {key!r}: see `pikvpress store ls`")
    return found[0]


def _about(one: StoredContext) -> tuple[str, str]:
    """Return the model and the press of a stored context."""
    from pikvpress.cache import saved_cache

    try:
        about = saved_cache(one.path)
    except (OSError, ValueError):
        return "damaged", ""
    if about.press is None:
        return about.model.architecture, "none"
    ratio = about.press["settings"].get("compression_ratio")
    return about.model.architecture, about.press["press"] + (f"({ratio})" if ratio is not None else "")
