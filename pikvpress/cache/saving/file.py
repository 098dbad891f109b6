"""A safetensors file of sections with checksums, which is written whole or not at all, and mapped when it is read.

The library `safetensors` reads these files, but its writer aligns tensors only to their items. Here every piece begins
at a multiple of 64 bytes, as in memory: matrix products of the same numbers at other alignments may differ in the last
bit. The header, on which everything else depends, has its own digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pikvpress.model_digest import as_bytes
from pikvpress.support.whole_file import whole_file

ALIGNED = 64  # bytes; what torch's allocator on the CPU guarantees
VERSION = 2  # 1 had neither schedules nor outputs
FORMAT = "pikvpress-cache-"
LARGEST_HEADER = 100_000_000  # as in the library
HEX = 64  # digits of a SHA-256
UNSET = "0" * HEX  # in place of the header's digest while it is computed
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}
DTYPES |= {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.uint8, torch.int16, torch.bool)}


def padded(size: int) -> int:
    """Return the number of bytes that a piece of ``size`` bytes takes in a section."""
    return -(-size // ALIGNED) * ALIGNED


def write_sections(
    path: Path, sections: Mapping[str, Sequence[torch.Tensor]], contents: Mapping[str, Any], is_durable: bool = True
) -> None:
    """Write a file; an existing one is replaced only when the new one is complete and on disk.

    Parameters
    ----------
    path : Path
        The file, in an existing folder.
    sections : mapping of str to sequence of torch.Tensor
        The pieces of each section. A section is verified as a whole.
    contents : mapping
        What the sections mean, as JSON.
    is_durable : bool, default=True
        Whether to wait until the file is on disk.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If the folder does not exist, or the path is a folder.
    OSError
        If the disk is full, or the file cannot be written. An existing file is then unchanged.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass the path of a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: create it first")
    try:
        with whole_file(path) as partial, partial.open("xb") as file:
            _write(file, sections, contents)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
    except OSError as error:
        raise type(error)(error.errno, f"{error.strerror} (nothing was saved)", str(path)) from error
    if is_durable:
        _sync_folder(path.parent)


def _write(file: BinaryIO, sections: Mapping[str, Sequence[torch.Tensor]], contents: Mapping[str, Any]) -> None:
    """Write the sections, and the header over what was left free for it: checksums have a fixed length."""
    sizes = {name: sum(padded(piece.nbytes) for piece in pieces) for name, pieces in sections.items()}
    file.write(bytes(len(_header(sizes, contents, [UNSET] * len(sizes)))))
    checksums = []
    for pieces in sections.values():
        checksum = hashlib.sha256()
        for piece in pieces:
            stored = as_bytes(piece)
            filling = bytes(padded(len(stored)) - len(stored))
            for part in (stored, filling):
                checksum.update(part)
                file.write(part)
        checksums.append(checksum.hexdigest())
    file.seek(0)
    file.write(_header(sizes, contents, checksums))


def _header(sizes: Mapping[str, int], contents: Mapping[str, Any], checksums: Sequence[str]) -> bytes:
    metadata = {
        "format": f"{FORMAT}{VERSION}",
        "digest": UNSET,
        "checksums": " ".join(checksums),
        "contents": json.dumps(contents, separators=(",", ":")),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (padded(8 + len(text)) - 8 - len(text))
    whole = len(text).to_bytes(8, "little") + text
    return whole.replace(UNSET.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def _sync_folder(folder: Path) -> None:
    """Make sure that a renamed file is found after a power failure, where folders can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turn the errors that nonsense with right checksums causes into a ``ValueError`` that names the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error


class MappedFile:
    """A file written by `write_sections`, whose pages are read from disk when they are first used.

    The header is verified when the file is opened, sections by `verify`.

    Parameters
    ----------
    path : Path
        The file. It may be replaced while it is mapped, but must not be changed in place.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is something else, truncated, altered, or was written by a newer version.

    Attributes
    ----------
    contents : dict
        What the sections mean.
    version : int
        Version of the format.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"there is no saved cache at {path}")
        self.path = path
        with path.open("rb") as file:
            header, self.version, metadata, entries = self._read_header(file)
            # A private copy: a press that changes keys in place changes neither the file nor other caches.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with well_formed(path):
            self.contents: dict[str, Any] = json.loads(metadata["contents"])
            places = {name: entry["data_offsets"] for name, entry in entries.items()}
            self._places = {name: (header + first, header + last) for name, (first, last) in places.items()}
            self._checksums = dict(zip(self._places, metadata["checksums"].split(), strict=True))
        end = max((last for _, last in self._places.values()), default=header)
        if len(self._map) != end:
            raise ValueError(f"{path} has {len(self._map)} bytes, not the {end} that were saved: restore it")

    def _read_header(self, file: BinaryIO) -> tuple[int, int, dict[str, str], dict[str, Any]]:
        """Return where the sections begin, the version, the metadata, and the entry of each section."""
        foreign = f"{self.path} is not a saved cache, or its beginning is truncated or altered"
        start = file.read(8)
        size = int.from_bytes(start, "little")
        if len(start) < 8 or size > LARGEST_HEADER:
            raise ValueError(foreign)
        text = file.read(size)
        try:
            entries = json.loads(text)
            metadata = entries.pop("__metadata__")
            version = re.fullmatch(rf"{FORMAT}([1-9]\d*)", metadata["format"])
            digest = str(metadata.get("digest"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(foreign) from error
        if version is None:
            raise ValueError(f"{foreign}: its format is {metadata['format']!r}, expected '{FORMAT}{VERSION}'")
        unsigned = (start + text).replace(digest.encode(), UNSET.encode(), 1)
        if len(digest) != HEX or hashlib.sha256(unsigned).hexdigest() != digest:
            raise ValueError(f"the header of {self.path} has been altered since it was written: restore the file")
        if int(version[1]) > VERSION:
            raise ValueError(
                f"{self.path} was written by a newer version of pikvpress, in format {version[1]}; this version reads "
                f"formats up to {VERSION}: update pikvpress"
            )
        return len(start) + size, int(version[1]), metadata, entries

    @property
    def sections(self) -> list[str]:
        """Names of the sections."""
        return list(self._places)

    def size(self, section: str) -> int:
        """Return the number of bytes of a section."""
        first, last = self._places[section]
        return last - first

    def verify(self, section: str) -> None:
        """Read a section and compare it with its checksum.

        Raises
        ------
        ValueError
            If it has been altered.
        """
        first, last = self._places[section]
        with memoryview(self._map) as whole, whole[first:last] as part:
            found = hashlib.sha256(part).hexdigest()
        if found != self._checksums[section]:
            raise ValueError(f"{section} in {self.path} has been altered since it was written: restore the file")

    def read_ahead(self) -> None:
        """Read everything into memory before it is used."""
        if hasattr(mmap, "MADV_WILLNEED"):  # not on Windows
            self._map.madvise(mmap.MADV_WILLNEED)
        torch.frombuffer(self._map, dtype=torch.uint8)[:: mmap.PAGESIZE].sum()  # without Python's lock

    def release(self) -> None:
        """Let go of the memory of what was read: it is read again when it is needed. Changes in place are lost."""
        if hasattr(mmap, "MADV_DONTNEED"):  # without it, the system frees memory when it is short of it
            self._map.madvise(mmap.MADV_DONTNEED)

    def tensor(self, section: str, at: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
        """Return a piece of a section without reading it; its storage holds nothing else.

        Raises
        ------
        ValueError
            If the section has no such piece.
        """
        first, last = self._places[section]
        count = math.prod(shape)
        if min(shape, default=0) < 0 or first + at + count * dtype.itemsize > last:
            raise ValueError(f"{section} in {self.path} is smaller than the file says: restore the file")
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=first + at).view(tuple(shape))


class Pieces:
    """The pieces of a section, taken in the order in which they were written."""

    def __init__(self, file: MappedFile, section: str):
        self._file, self._section, self._at = file, section, 0

    def take(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return the next piece."""
        piece = self._file.tensor(self._section, self._at, dtype, shape)
        self._at += padded(piece.nbytes)
        return piece

    def finish(self) -> None:
        """Raise a ``ValueError`` if there are more pieces."""
        if self._at != self._file.size(self._section):
            raise ValueError(f"{self._section} in {self._file.path} is larger than the file says: restore the file")
