"""Files of a study's samples: plain journals while it runs, one compressed file after packing."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

PACKED = "samples.jsonl.gz"
JOURNALS = "samples-*.jsonl"


def sample_files(folder: Path) -> list[Path]:
    """Return the files with samples. The packed file comes first, because it is older and the first result counts."""
    packed = folder / PACKED
    return [*([packed] if packed.exists() else []), *sorted(folder.glob(JOURNALS))]


def content(file: Path) -> bytes:
    """Return the JSON lines in a file.

    Raises
    ------
    ValueError
        If a packed file is damaged.
    """
    written = file.read_bytes()
    if file.name != PACKED:
        return written
    try:
        if not written:
            raise EOFError("it is empty")  # gzip reads an empty file as zero lines
        return gzip.decompress(written)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}): restore it, or move it away and run the study again") from error


def compressed(lines: bytes) -> bytes:
    """Return the contents of a packed file; without a date, so that the same samples give the same file."""
    return gzip.compress(lines, compresslevel=9, mtime=0)
