"""What the command `pikvpress adapt` does and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from pikvpress.support.command_line import progress_bar, say


def train_and_tell(
    model_name: str | None, paths: list[Path] | None, output: Path, ratios: list[float] | None, **choices: Any
) -> None:
    """Train an adapter for `PiKVPress`, and print what it gains.

    Parameters
    ----------
    model_name : str, optional
        A folder, a GGUF file or a hub name.
    paths : list of Path, optional
        Files and folders of texts.
    output : Path
        Folder for the adapter.
    ratios : list of float, optional
        Compression ratios of the press.
    **choices
        Fields of `AdaptationRecipe`.

    Raises
    ------
    ValueError
        If the adapter gained nothing on held-out text, or for the reasons of `adapt`.
    """
    # Imported here: loading torch and transformers takes seconds, and `--help` should not.
    from pikvpress.adaptation import adapt as train
    from pikvpress.adaptation.adapt import RATIOS
    from pikvpress.calibration.data.texts import read_texts
    from pikvpress.default_model import load_model
    from pikvpress.presses import PiKVPress

    read = read_texts(paths) if paths else None
    presses = [PiKVPress(ratio) for ratio in ratios or RATIOS]
    model, tokenizer = load_model(model_name)
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
                say(bar, what)
            bar.update(tasks[what], completed=done, total=total)

        found = train(model, tokenizer, output, read, presses=presses, progress=progress, **choices)
    console = Console()
    for press, before, after in zip(presses, found.gains.before, found.gains.after, strict=True):
        left = f"PiKVPress {press.compression_ratio:.2%}"
        console.print(f"{left}: divergence {before.mean():.4f} without the adapter, {after.mean():.4f} with it")
    console.print(f"perplexity with the full cache: {found.gains.perplexity_ratio:.4f} times the model's")
    if found.folder is None:
        raise ValueError("the adapter gained nothing on held-out text and was not written: train it for longer")
    console.print(f"adapter, trained on {found.contexts} contexts: {found.folder}", soft_wrap=True)
