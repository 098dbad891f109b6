"""A store in a folder, which several processes may use at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pikvpress.cache.saving.file import MappedFile
from pikvpress.store.cache_store import CacheStore
from pikvpress.store.keys import ContextKey, ContextKeys
from pikvpress.support.whole_file import whole_file

MARK = "pikvpress-store.json"
FORMAT = 1
SUFFIX = ".safetensors"
ABANDONED = 3600  # seconds after which an unfinished file is that of a killed process


@dataclass(frozen=True)
class StoredContext:
    """A stored context.

    Parameters
    ----------
    key : ContextKey
        Its key.
    path : Path
        Its file, see `pikvpress.cache.saved_cache`.
    nbytes : int
        Size of the file.
    used : float
        When it was last stored or found, in seconds since 1970.
    """

    key: ContextKey
    path: Path
    nbytes: int
    used: float


class FolderStore(CacheStore):
    """Contexts in a folder: one file each, named by a digest of the tokens, the model and the settings.

    Files are written whole; while one is written, it comes on top of `max_bytes`. The least recently used ones are
    removed when the folder grows beyond that; a cache that was loaded from a removed file can still be read. Any number
    of processes may read and write: the name of a file says what is in it, so that whoever writes it last changes
    nothing.

    Parameters
    ----------
    path : str or Path
        The folder; created, with the folders above it, if it does not exist.
    max_bytes : int, optional
        Size of all files together. By default unlimited. Nothing is removed until the next context is stored.
    create : bool, default=True
        Whether an empty or missing folder becomes a store.

    Raises
    ------
    ValueError
        If the folder contains other files, or a store of a newer version; if `max_bytes` is not positive.
    NotADirectoryError, FileNotFoundError
        If the path is a file, or there is no store and none is to be created.

    Examples
    --------
    >>> store = FolderStore("contexts", max_bytes=10**10)
    >>> pipe(context, questions=questions, press=press, store=store)
    """

    def __init__(self, path: str | Path, max_bytes: int | None = None, *, create: bool = True):
        if max_bytes is not None and max_bytes <= 0:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.path, self.max_bytes = Path(path).expanduser(), max_bytes
        _open(self.path, create)

    def put(self, key: ContextKey, save: Callable[[Path], None], nbytes: int) -> None:
        """Store a file under a key, and remove the least recently used ones if there is no room; see `CacheStore`."""
        self._check_size(nbytes)
        path = self._path(key)
        save(path)
        with suppress(FileNotFoundError):  # another process may have removed it already
            size = path.stat().st_size
            if self.max_bytes is not None and size > self.max_bytes:
                path.unlink()
                self._check_size(size)
        self._make_room(key)

    def find(self, keys: ContextKeys, least: int) -> Iterator[tuple[ContextKey, Path]]:
        """Yield the stored prefixes of a text, the longest first; they count as used. See `CacheStore`."""
        group = keys.at(least).group
        there = {key for key, _ in self._files() if key.group == group and least <= key.length <= keys.length}
        for length in sorted({key.length for key in there}, reverse=True):
            key = keys.at(length)
            if key in there:
                with suppress(OSError):  # it may have been removed, or belong to another user
                    os.utime(self._path(key))
                yield key, self._path(key)

    def remove(self, key: ContextKey) -> bool:
        """Remove what is stored under a key, and return whether there was anything."""
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def contexts(self) -> list[StoredContext]:
        """Return what is stored, the most recently used first."""
        found = []
        for key, entry in self._files():
            with suppress(FileNotFoundError):
                about = entry.stat()
                found.append(StoredContext(key, Path(entry.path), about.st_size, about.st_mtime))
        return sorted(found, key=lambda one: (-one.used, one.key.name))

    def damaged(self) -> list[tuple[StoredContext, str]]:
        """Read everything that is stored, and return what is not whole, each with what is wrong."""
        found = []
        for one in self.contexts():
            try:
                file = MappedFile(one.path)
                for section in file.sections:
                    file.verify(section)
            except FileNotFoundError:
                continue
            except ValueError as error:
                found.append((one, str(error)))
        return found

    @property
    def nbytes(self) -> int:
        """Size of all files together."""
        return sum(one.nbytes for one in self.contexts())

    def _path(self, key: ContextKey) -> Path:
        return self.path / f"{key.name}{SUFFIX}"

    def _files(self) -> Iterator[tuple[ContextKey, os.DirEntry[str]]]:
        with os.scandir(self.path) as entries:
            for entry in entries:
                key = ContextKey.of(entry.name.removesuffix(SUFFIX)) if entry.name.endswith(SUFFIX) else None
                if key is not None:
                    yield key, entry

    def _check_size(self, nbytes: int) -> None:
        if self.max_bytes is not None and nbytes > self.max_bytes:
            raise ValueError(
                f"this context takes {nbytes:,} bytes, and the store in {self.path} may have {self.max_bytes:,}: raise "
                "max_bytes, or compress it more"
            )

    def _make_room(self, new: ContextKey) -> None:
        """Remove what was least recently used until the rest fits, and what killed processes have left.

        This needs no lock: whoever lists the folder after the last file has appeared sees all of them, and removes what
        is too much. Two that do so at once choose the same files.
        """
        for abandoned in self.path.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - abandoned.stat().st_mtime > ABANDONED:
                    abandoned.unlink()
        if self.max_bytes is None:
            return
        contexts = self.contexts()
        held = sum(one.nbytes for one in contexts)
        for one in reversed(contexts):
            if held <= self.max_bytes:
                return
            if one.key != new:
                with suppress(OSError):  # removed already; or, on Windows, being read
                    one.path.unlink()
                held -= one.nbytes


def _open(path: Path, create: bool) -> None:
    """Check that a folder is a store; make it one if it is empty and this is wanted."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is not a folder: a store is a folder of its own")
    mark = path / MARK
    if not mark.is_file():
        if not create:
            raise FileNotFoundError(f"there is no store in {path}")
        path.mkdir(parents=True, exist_ok=True)
        others = [one.name for one in path.iterdir() if not one.name.startswith(f".{MARK}.")]
        if others and not mark.is_file():  # another process may have made it a store in the meantime
            raise ValueError(f"{path} contains {min(others)} and is no store: choose an empty folder, or a new one")
        with whole_file(mark) as partial:
            partial.write_text(json.dumps({"pikvpress-store": FORMAT}))
    try:
        version = json.loads(mark.read_text())["pikvpress-store"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{mark} is not the mark of a store: choose another folder") from error
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"the store in {path} has format {version}, and this version reads formats up to {FORMAT}: update pikvpress"
        )
