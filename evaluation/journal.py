"""Finished samples on disk, one JSON line each, from which an interrupted study continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from evaluation.files import write_whole
from evaluation.samples import JOURNALS, PACKED, compressed, content, sample_files
from evaluation.schema import KEY

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Key = tuple[Any, ...]


def key_of(record: Mapping[str, Any]) -> Key:
    """Return the unique key of a record: benchmark, length, sample, press and ratio."""
    return tuple(record[name] for name in KEY)


class Journal:
    """The records of a results folder, in one file per process, so that processes never write to the same file.
    Packed records (`pack`) are also read, but never written to.
    Use it in a ``with`` block: until its end, no other run can write to the file.

    Parameters
    ----------
    folder : Path
        The existing folder of the results.
    rank : int
        Rank of this process.

    Raises
    ------
    ValueError
        If another run is writing, or a file has a line that is not a record. An incomplete last line of a process that
        was killed is removed from the process's own file and ignored in other files.
    """

    def __init__(self, folder: Path, rank: int):
        self.folder = folder
        self._own = folder / f"samples-{rank}.jsonl"
        self._file = self._own.open("ab", buffering=0)
        _lock(self._file, folder)
        _cut_half_line(self._own)
        self.done = set(map(key_of, self.read()))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield every finished record of every process, each once."""
        seen: set[Key] = set()
        for file in sample_files(self.folder):
            for _, record in _records(file):
                if key_of(record) not in seen:  # restarted processes may divide samples differently
                    seen.add(key_of(record))
                    yield record

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write new records, and make sure that they are on disk.

        Raises
        ------
        OSError
            For example if there is no space left; earlier results are kept.
        """
        new = [record for record in records if key_of(record) not in self.done]
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in new)
        try:
            left = memoryview(lines.encode())
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self._own} cannot be written ({error.strerror}): fix the problem and run the same "
                f"command again; {len(self.done)} finished samples are kept",
            ) from error
        self.done.update(map(key_of, new))


def pack(folder: Path) -> Path:
    """Merge the journals of a results folder into one compressed file, and return its path.

    A packed study can be reported, compared and continued like any other; pack it again after adding to it.

    Raises
    ------
    ValueError
        If there are no samples, a run is writing, or a line is not a record. Nothing is changed in this case.
    """
    journals = sorted(folder.glob(JOURNALS))
    handles = [file.open("rb+") for file in journals]
    try:
        for handle in handles:
            _lock(handle, folder)
        lines: dict[Key, bytes] = {}
        for file in sample_files(folder):
            for line, record in _records(file):
                lines.setdefault(key_of(record), line)
        if not lines:
            raise ValueError(f"{folder} has no finished samples to pack: name a folder of `python -m evaluation run`")
        packed = write_whole(folder / PACKED, compressed(b"".join(line + b"\n" for line in lines.values())))
        for file in journals:
            file.unlink()
    finally:
        for handle in handles:
            handle.close()
    return packed


def _records(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each complete line of a file, and its record."""
    text = content(file)
    complete = text[: text.rfind(b"\n") + 1]
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            record = json.loads(line)
            key_of(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {file} is not a finished sample: the file is damaged or from another tool; move it "
                "away, or choose another --output"
            ) from error
        yield line, record


def _lock(file: BinaryIO, folder: Path) -> None:
    """Prevent other runs from writing to a file, if the system supports this."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"another run is writing to {folder}: wait until it ends, or choose another --output"
        ) from error


def _cut_half_line(file: Path) -> None:
    written = file.read_bytes()
    complete = written.rfind(b"\n") + 1
    if complete < len(written):
        with file.open("rb+") as handle:
            handle.truncate(complete)
