"""A layer whose entries may lie on a slower tier while nobody reads them."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.readers import READERS
from pikvpress.cache.scheduled import ScheduledLayer
from pikvpress.cache.tiers.away import Away
from pikvpress.cache.tiers.fetching import FETCHER

if TYPE_CHECKING:
    from pikvpress.cache.pending import Pending
    from pikvpress.cache.tiers.storage import Storage


class TieredLayer(ScheduledLayer):
    """Entries of one layer, which are fetched when they are needed and put back by `rest`.

    `entries` is an attribute while they are on the device. Otherwise, asking for it fetches them. Measuring does not.
    """

    device: torch.device
    _storage: Storage | None = None
    _number = 0  # index of the layer in its cache
    _home = "device"  # the tier of entries that are an attribute
    _away: Away | None = None  # what lies on a slower tier
    _put_by: Storage | None = None  # what put it there
    _brought: Compressed | None = None  # its compressed entries as they were fetched
    _coming: Future[tuple[Entries, Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        """Fetch the entries when they are needed."""
        away: Away | None = self.__dict__.get("_away")
        if name != "entries" or away is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        coming, self._coming = self._coming, None
        self.entries = away.on(self.device) if coming is None else FETCHER.finish(coming)
        self._brought = self.entries.compressed
        return self.entries

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which shares what lies on a slower tier."""
        state = self.__dict__
        if not self._rests:
            state = super().__getstate__() | {"_away": None, "_put_by": None, "_brought": None}
        return {name: value for name, value in state.items() if name != "_coming"}

    def reset(self) -> None:
        """Clear everything except the settings."""
        if self._coming is not None:
            FETCHER.finish(self._coming)
        self._away = self._put_by = self._brought = self._coming = None
        self._home = "device"
        super().reset()

    def lie_in(self, storage: Storage | None, number: int) -> None:
        """Lie on the tiers of a storage as layer `number` from the next `rest` on, or on the device without one."""
        self._storage, self._number = storage, number

    def prefetch(self) -> None:
        """Begin to fetch the entries, if they are away and the next token reads all of them."""
        selective = self.keeper is not None and self.keeper.reads_some_pages
        if "entries" not in self.__dict__ and self._away is not None and self._coming is None and not selective:
            self._coming = FETCHER.start(self._away, self.device)

    def rest(self) -> None:
        """Put the entries on the tier that the storage has for this layer, if there is a storage.

        Entries that gradients flow through, or that wait for a press or a codec, stay where they are.

        Raises
        ------
        OSError
            If a file cannot be written. The layer is then unchanged.
        """
        storage, entries = self._storage, self.__dict__.get("entries")
        if storage is None or entries is None or entries.length == 0 or entries.tail.keys.requires_grad:
            return
        if self._pending() is not None:
            return
        tier = storage.home(self._number, entries.nbytes, self.depth or 1)
        if tier == "device" or (tier == "host" and self.device.type == "cpu"):
            self._settle_down(entries, tier)
            return
        is_known = self._put_by is storage and entries.compressed is self._brought
        self._away = storage.put(self._number, tier, entries, self._away if is_known else None)
        self._put_by, self._brought = storage, None
        del self.entries

    def move(self) -> None:
        """Put the entries on their tier now, wherever they are; see `rest`."""
        if self._away is not None and self._put_by is not self._storage:
            self._settle_down(self.entries)
        self.rest()

    def rest_if_possible(self) -> None:
        """Put the entries back as `rest` does, or leave them in memory if they cannot be written."""
        with suppress(OSError):
            self.rest()

    def _settle_down(self, entries: Entries, tier: str = "device") -> None:
        """Hold entries on the device, and nothing on slower tiers."""
        mapped = self._away is not None and self.device.type == "cpu"
        self.entries = entries.each(torch.clone) if mapped else entries
        self._away = self._put_by = self._brought = None
        self._home = tier

    # Contents of the layer, without fetching them.

    @property
    def _rests(self) -> bool:
        """Whether the entries are away and nothing will change them when they are fetched."""
        if "entries" in self.__dict__ or self._away is None:
            return False
        waits = READERS.mask_of(self) is not None or self.packs or self.part is not None
        return self._away.are_compressed or not waits

    def _measured(self) -> Entries | Away:
        return self._away if self._rests and self._away is not None else self.entries

    def _pending(self) -> Pending | None:
        return None if self._rests else super()._pending()

    @property
    def recent(self) -> int:
        """Number of dense entries."""
        return self._measured().recent

    def tier_bytes(self) -> dict[str, int]:
        """Return the bytes on each tier that holds some, with those that a scheduler records; their sum is `nbytes`."""
        nbytes = self.nbytes
        if not self._rests or self._away is None:
            return {self._home: nbytes}
        stored = self._away.stored.nbytes
        return {"device": nbytes - stored, self._away.tier: stored}
