"""Texts to calibrate on: those that ship, and those that a user has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path


def shipped_texts() -> list[str]:
    """Return the documents that ship: stories, letters, manuals, records, conversations and code, all made up."""
    folder = files("pikvpress.calibration.data") / "texts"
    return [file.read_text(encoding="utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name)]


def read_texts(paths: Iterable[str | Path]) -> list[str]:
    """Return the documents in files and in folders' files (``*.txt``, ``*.md``), in the order of their names.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a folder holds no such file, or a file is no UTF-8 text.
    """
    texts = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"there is no text at {path}: give files, or folders of .txt or .md files")
        found = sorted(f for f in path.iterdir() if f.suffix in (".txt", ".md")) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"the folder {path} holds no .txt or .md file: give one that does, or files by name")
        for file in found:
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is no UTF-8 text ({error}): convert it, or leave it out") from error
    return texts


def split(texts: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """Return texts to fit on, and those held out: one of ``every`` documents, or the last such part of each of few."""
    texts = [text for text in texts if text.strip()]
    if len(texts) >= every:
        held = list(texts[every - 1 :: every])
        return [text for i, text in enumerate(texts) if i % every != every - 1], held
    cuts = [len(text) * (every - 1) // every for text in texts]
    return [t[:cut] for t, cut in zip(texts, cuts, strict=True)], [t[cut:] for t, cut in zip(texts, cuts, strict=True)]
