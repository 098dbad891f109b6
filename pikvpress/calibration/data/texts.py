"""Texts to calibrate on: the shipped texts, and the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path


def shipped_texts() -> list[str]:
    """Return the shipped documents, all fictional: prose, dialogue, manuals, tables, code, six other languages."""
    folder = files("pikvpress.calibration.data") / "texts"
    return [file.read_text(encoding="utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name)]


def read_texts(paths: Iterable[str | Path]) -> list[str]:
    """Return the documents in files and in the files of folders (``*.txt``, ``*.md``), in the order of their names.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a folder has no such file, or a file is not UTF-8 text.
    """
    texts = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"there is no text at {path}: pass files, or folders with .txt or .md files")
        found = sorted(f for f in path.iterdir() if f.suffix in (".txt", ".md")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"the folder {path} has no .txt or .md file: pass another folder, or files by name")
        for file in found:
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is not UTF-8 text ({error}): convert it, or omit it") from error
    return texts


def split(texts: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """Return texts to fit on and held-out texts: one of ``every`` documents, or with few, the last part of each."""
    texts = [text for text in texts if text.strip()]
    if len(texts) >= every:
        held = list(texts[every - 1 :: every])
        return [text for i, text in enumerate(texts) if i % every != every - 1], held
    cuts = [len(text) * (every - 1) // every for text in texts]
    return [t[:cut] for t, cut in zip(texts, cuts, strict=True)], [t[cut:] for t, cut in zip(texts, cuts, strict=True)]
