"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside another one, to write a file to; without an error, it then takes the place of the other.

    After an error the file is removed, and an existing file at the other path is unchanged. A process that is killed
    meanwhile leaves a hidden file that ends in ``.partial``.
    """
    partial = _beside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a path beside another one, to make a folder at; without an error, it then becomes the other.

    There must be no folder at the other path, or an empty one. After an error, nothing is left of the new one.
    """
    partial = _beside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
