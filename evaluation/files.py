"""Atomic writing of files."""

from __future__ import annotations

from pathlib import Path

from pikvpress.support.whole_file import whole_file


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name, move it into place once it is complete, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
