"""What puts the layers of one cache on slower tiers."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.entries import Entries
from pikvpress.cache.saving.file import MappedFile, Pieces, write_sections
from pikvpress.cache.tail import DenseTail
from pikvpress.cache.tiers.away import Away
from pikvpress.cache.tiers.tiers import Tiers

FRESH = 16  # a layer is written again when more than one in so many of its entries is new
SECTION = "layer"


class Storage:
    """The tiers of one cache: which layer lies on which, and a temporary folder for their files.

    The folder is removed with this object, or when the process ends.

    Parameters
    ----------
    tiers : Tiers
        The user's choice.
    """

    def __init__(self, tiers: Tiers):
        self.tiers = tiers
        self._sizes: dict[int, int] = {}
        self._homes: dict[int, str] = {}
        self._folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy needs, which has a folder of its own."""
        return Storage, (self.tiers,)

    def home(self, layer: int, nbytes: int, layers: int) -> str:
        """Return the tier on which a layer of so many bytes lies from now on, in a model of so many layers."""
        self._sizes[layer] = nbytes
        before = [index for index in sorted(self._homes) if index < layer]
        sizes, homes = [self._sizes[index] for index in (*before, layer)], [self._homes[index] for index in before]
        self._homes[layer] = self.tiers.home(sizes, homes, layers)
        return self._homes[layer]

    def put(self, layer: int, tier: str, entries: Entries, before: Away | None) -> Away:
        """Return a layer's entries on a slower tier.

        Parameters
        ----------
        layer : int
            Index of the layer.
        tier : str
            The tier.
        entries : Entries
            What the layer holds.
        before : Away, optional
            What of it already lies on a tier, unchanged: its compressed entries, and the first `known` dense ones.

        Raises
        ------
        OSError
            If a file cannot be written, for example because the disk is full. Nothing has changed then.
        """
        if before is not None and before.tier == tier:
            known = entries.tail.known if _is_unchanged(entries.tail) else 0
            fresh = entries.tail.between(known, entries.tail.length)
            if fresh.length <= max(PAGE, before.stored.length // FRESH):
                if before.release is not None:
                    before.release()
                return before.followed(known, fresh.copied())
        return self._in_file(layer, entries) if tier == "file" else in_host_memory(entries)

    def _in_file(self, layer: int, entries: Entries) -> Away:
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="pikvpress-tiers-", dir=self.tiers.parent))
                weakref.finalize(self, _remove, self._folder, os.getpid())
            path = self._folder / f"layer-{layer}.safetensors"
            write_sections(path, {SECTION: entries.tensors()}, {}, is_durable=False)
            file = MappedFile(path)
        except OSError as error:
            reason = f"{error.strerror or error}: layer {layer} cannot be moved to a file, so it stays in memory"
            raise type(error)(error.errno, reason, str(self.tiers.parent)) from error
        taken = Pieces(file, SECTION)
        stored = entries.each(lambda tensor: taken.take(tensor.dtype, *tensor.shape))
        return Away("file", stored, _nothing_after(entries), file.read_ahead, file.release)


def in_host_memory(entries: Entries) -> Away:
    """Return entries in page-locked memory of the host, from which a GPU reads without a copy on the way."""
    return Away("host", entries.each(page_locked), _nothing_after(entries))


def page_locked(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor in page-locked memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def _remove(folder: Path, process: int) -> None:
    """Remove a folder if this is the process that made it, and not one that was forked from it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _nothing_after(entries: Entries) -> DenseTail:
    return entries.tail.between(0, 0).copied()


def _is_unchanged(tail: DenseTail) -> bool:
    """Return whether nothing was written into the tensors since they were made, as far as torch counts that."""
    return all(not part.is_inference() and part._version == 0 for part in (tail.keys, tail.values))
