"""What keeps a layer within its ceiling: a scheduler chooses what stays whenever a page leaves the recent window."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from pikvpress.cache.ceiling import Cost
from pikvpress.cache.choice import CodecChoice, by_head
from pikvpress.cache.choosing import chosen
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.history import Step
from pikvpress.cache.page_index import PageIndex
from pikvpress.cache.records import Records
from pikvpress.cache.schedule import Schedule
from pikvpress.cache.scheduler import Candidates
from pikvpress.cache.stored import Codecs, Stored
from pikvpress.cache.whole_layer import WholeLayer

PER_HEAD = 64  # bytes recorded about a head at most: the numbers of its entries, and totals


class Keeper:
    """The schedule of a cache in one of its layers.

    A layer's entries are, the oldest first: what a press has compressed before scheduling began, which stays; stored
    entries; and the recent ones, dense. Nothing is stored, and the layer stays dense, until its ceiling requires it.

    Parameters
    ----------
    schedule : Schedule
        What all layers share.
    layer : int
        Index of the layer.
    codecs : pair of CodecChoice
        Codecs of stored keys and values.
    entries : Entries
        What the layer holds when scheduling begins. Everything that is compressed stays.
    """

    def __init__(self, schedule: Schedule, layer: int, codecs: tuple[CodecChoice, CodecChoice], entries: Entries):
        self.schedule, self._layer, self._choice = schedule, layer, codecs
        self._fixed = len(entries.compressed.context)  # number of stretches that stay
        self._origin = entries.compressed.context_length  # index of the first scheduled entry
        self._records: Records | None = None
        self._pages: PageIndex | None = None
        self._whole: WholeLayer | None = None
        self._due = not schedule.met  # whether the ceiling may be lower than what is held, until a model reads
        if entries.tail.keys is not None:
            self._begin(entries)

    def reset(self) -> None:
        """Forget everything except the schedule: the layer is empty."""
        self._fixed, self._origin, self._records, self._pages, self._whole = 0, 0, None, None, None
        self.schedule.longer.pop(self._layer, None)

    def _begin(self, entries: Entries) -> None:
        heads = entries.tail.keys.shape[1]
        self._codecs: Codecs = (by_head(self._choice[0], heads), by_head(self._choice[1], heads))
        self._records = Records(self.schedule, self._layer, entries, self._fixed_counts(entries))

    def _fixed_counts(self, entries: Entries) -> list[int]:
        batch, heads = entries.tail.keys.shape[:2]
        return Compressed(entries.compressed.context[: self._fixed]).counts(batch * heads)

    def governs(self, entries: Entries) -> bool:
        """Return whether any of the entries are scheduled, rather than compressed by a press."""
        return entries.length > self._origin

    @property
    def records(self) -> Records:
        """The records of the layer, which has read an entry."""
        assert self._records is not None
        return self._records

    @property
    def watches(self) -> bool:
        """Whether `observed` needs the attention that entries receive."""
        return bool(self.schedule.scheduler.statistics)

    @property
    def reads_some_pages(self) -> bool:
        """Whether a single token reads only some of the stored pages."""
        return self._pages is not None

    @property
    def nbytes(self) -> int:
        """Bytes of records, and in the first layer those that all layers share."""
        shared = self.schedule.angles.nbytes if self._layer == 0 else 0
        parts = (self._records, self._pages)
        return shared + sum(part.nbytes for part in parts if part is not None)

    @property
    def codecs(self) -> tuple[tuple[Codec, ...], tuple[Codec, ...]]:
        """Codecs of stored keys and values, by KV head."""
        return tuple(self._codecs[0]), tuple(self._codecs[1])

    @property
    def _packs(self) -> bool:
        return any(codec != EXACT for side in self._codecs for codec in side)

    # Reading.

    def arrived(self, entries: Entries, tokens: int, rotation: dict[str, Any] | None) -> None:
        """Record that so many entries were appended; `rotation` may hold their cosines and sines."""
        if self._records is None:
            self._begin(entries)
        self.records.arrived(entries, tokens, rotation)

    def held_for(self, query: torch.Tensor, entries: Entries) -> list[tuple[Any, Any]]:
        """Return keys and values to read: all that is stored, or only some pages of it for a single token."""
        held: list[tuple[Any, Any]] = [(stretch.keys, stretch.values) for stretch in entries.compressed.stretches]
        if self._pages is None or query.shape[2] != 1:
            return held
        left = entries.compressed.context_length - self._origin
        pages = max(1, self._quota(entries, left) // PAGE)
        stored = entries.compressed.context[-1]
        return [*held[: self._fixed], self._pages.chosen(query, stored, pages, self.schedule.scheduler)]

    def after_reading(self, entries: Entries, attention: torch.Tensor | None, tokens: int) -> Entries:
        """Return the entries after tokens have read them: what they observed is recorded, the ceiling kept.

        Parameters
        ----------
        entries : Entries
            What the layer holds.
        attention : torch.Tensor, optional
            Attention that entries received, see `Records.observed`; needed if `watches`.
        tokens : int
            Number of tokens.
        """
        if attention is not None:
            self.records.observed(entries, attention, tokens)
        entries = self.enforced(entries)
        if self.schedule.layers == self._layer + 1:  # all layers have measured what has left the window
            measured = entries.compressed.context_length + self.records.ledger.measured
            self.schedule.angles.forget(measured - self.schedule.longer.get(self._layer, 0))
        return entries

    # Keeping the ceiling.

    def leaves(self, entries: Entries) -> int:
        """Return how many entries are about to leave the window."""
        return max(0, entries.tail.length - self.schedule.window) // PAGE * PAGE

    def enforced(self, entries: Entries, at_once: bool = False) -> Entries:
        """Return the entries after full pages have left the window, if there are any.

        Parameters
        ----------
        entries : Entries
            What the layer holds.
        at_once : bool, default=False
            Whether the ceiling has changed, and stored entries may have to go although nothing leaves the window.

        Raises
        ------
        ValueError
            If a codec cannot store an entry.
        """
        if not self.schedule.met:
            return entries
        at_once, self._due = at_once or self._due, False
        if at_once and self._records is not None:
            self._of_model(entries)  # ranks collect it together, although some may have stored nothing
        whole, stored = self.leaves(entries), Stored.of(entries.compressed.context[self._fixed :])
        if whole == 0 and not (at_once and stored.stretches):
            return entries
        self.records.measured(entries, whole)
        ledger, scheduler = self.records.ledger, self.schedule.scheduler
        first = entries.compressed.context_length
        left, heads = first + whole - self._origin, len(self._codecs[0])
        quotas = scheduler.quotas(self._layer, heads, left, self._quota(entries, left))
        if not (stored.stretches or self._of_model(entries).packs or whole > min(quotas)):
            return entries
        candidates = ledger.candidates(first, whole, entries.length, self._layer)
        candidates = replace(candidates, left=left, quotas=quotas)
        kept = chosen(scheduler, candidates, stored.packed_counts)
        return self._after(entries, stored, candidates, kept)

    def _after(self, entries: Entries, stored: Stored, candidates: Candidates, kept: torch.Tensor) -> Entries:
        """Return the entries of which the marked ones are stored, and record the step."""
        ledger, heads = self.records.ledger, kept.shape[1]
        whole = kept.shape[2] - ledger.stored
        stored = stored.after(entries.tail.between(0, whole), kept, ledger.stored, self._codecs)
        context = (*entries.compressed.context[: self._fixed], *stored.stretches)
        result = Entries(entries.tail.between(whole, entries.tail.length).copied(), Compressed(context))
        before, held = (part.flatten(0, 1).sum(dim=-1).tolist() for part in (candidates.exist, kept))
        dropped = tuple(many - few for many, few in zip(before, held, strict=True))
        name, counts = self.schedule.scheduler.name, tuple(result.counts())
        self.schedule.history.add(Step(self._layer, entries.length, name, counts, dropped))
        self.records.ledger = ledger.kept(candidates, kept, max(held))
        self._index_pages(stored, heads)
        return result

    def _index_pages(self, stored: Stored, heads: int) -> None:
        needed = stored.exact is not None and not self.schedule.scheduler.drops
        self._pages = PageIndex.of(stored.exact, heads) if needed and stored.exact is not None else None

    def _quota(self, entries: Entries, left: int) -> int:
        cost = self._cost(entries) if self.schedule.ceiling.max_bytes is not None else None
        return self.schedule.ceiling.quota(self.schedule.window, left, self._of_model(entries).fixed, cost)

    def _of_model(self, entries: Entries) -> WholeLayer:
        """Return what all ranks hold, which they tell each other once, unless it must be the same on all."""
        if self._whole is None:
            counts, pairs = self._fixed_counts(entries), tuple(zip(*self._codecs, strict=True))
            nbytes = sum(stretch.nbytes for stretch in entries.compressed.context[: self._fixed])
            alike = self._origin == 0 and all(isinstance(choice, Codec) for choice in self._choice)
            own = WholeLayer(-(-sum(counts) // len(counts)), nbytes, pairs)
            self._whole = own.joined(self.schedule.shard, alike)
        return self._whole

    def _cost(self, entries: Entries) -> Cost:
        keys, ledger, scheduler = entries.tail.keys, self.records.ledger, self.schedule.scheduler
        measures = len(scheduler.measures) * torch.promote_types(keys.dtype, torch.float32).itemsize
        recorded = ledger.positions.itemsize + measures
        padded = sum(part.itemsize for part in ledger.observed.values())
        batch, head_dim = keys.shape[0], keys.shape[3]
        whole = self._of_model(entries)  # the ceiling is that of the whole model, of which a rank holds some heads
        heads = len(whole.codecs)
        fixed = whole.nbytes + batch * heads * PER_HEAD
        if scheduler.measures and self._layer == 0:
            fixed += 2 * self.schedule.recent * head_dim * keys.itemsize  # rotations
        assert self.schedule.layers is not None
        records = (recorded + padded, recorded + scheduler.widest(heads) * padded)
        return Cost(self.schedule.layers, batch * heads, head_dim, keys.dtype, whole.codecs, records, fixed)

    def check(self, entries: Entries) -> None:
        """Raise a ``ValueError`` if the ceiling is below the smallest cache, or codecs do not suit the scheduler."""
        if self._records is None:
            return
        if self._of_model(entries).packs and not self.schedule.scheduler.drops:
            raise ValueError(
                f"scheduler {self.schedule.scheduler.name!r} reads pages of exact keys: use a PiKVCache without codecs"
            )
        self._quota(entries, 0)

    # Changes from outside.

    def switched(self, schedule: Schedule, entries: Entries) -> Keeper:
        """Return a keeper of the same entries for another schedule."""
        keeper = copy.copy(self)
        keeper.schedule, keeper._whole, keeper._due = schedule, None, not schedule.met
        if self._records is not None:
            keeper._records = self._records.switched(schedule, entries)
            stored = Stored.of(entries.compressed.context[self._fixed :])
            keeper._index_pages(stored, len(self._codecs[0]))
        return keeper

    def selected(self, rows: torch.Tensor) -> None:
        """Continue with the selected rows of the batch."""
        self._whole = None
        if self._records is not None:
            self._records.selected(rows)
        self._pages = None if self._pages is None else self._pages.each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> None:
        """Move the records to a device."""
        if self._records is not None:
            self._records.to(device)
        self._pages = None if self._pages is None else self._pages.each(lambda part: part.to(device))

    def length_after_crop(self, entries: Entries, max_length: int) -> int:
        """Return how many entries a crop leaves, as `Entries.length_after_crop`, but stored entries can be cropped too.

        Raises
        ------
        ValueError
            If the new end would be inside what a press has compressed, or among entries in few bits, or more entries
            would be removed than there are.
        """
        wanted = entries.length + max_length if max_length < 0 else max_length
        stored = entries.compressed.context[self._fixed :]
        inside = bool(stored) and 0 < wanted < entries.compressed.context_length and wanted >= self._origin
        return wanted if inside and not self._packs else entries.length_after_crop(max_length)

    def cropped(self, entries: Entries, length: int) -> Entries:
        """Return the entries before an index; those that were dropped in the meantime do not come back."""
        self.schedule.angles.crop(length - self.schedule.longer.get(self._layer, 0))
        ledger = self.records.ledger
        if length >= entries.compressed.context_length:
            result = entries.cropped(length)
            self.records.ledger = ledger.shortened(result.tail.length)
            return result
        candidates = ledger.candidates(0, 0, entries.length, self._layer)
        kept = candidates.exist & (candidates.positions < length)
        stored = Stored.of(entries.compressed.context[self._fixed :]).shortened(kept, length - self._origin)
        self.records.ledger = ledger.shortened(0).kept(candidates, kept, max(stored.stretches[-1].counts))
        self._index_pages(stored, kept.shape[1])
        context = (*entries.compressed.context[: self._fixed], *stored.stretches)
        return Entries(entries.tail.between(0, 0).copied(), Compressed(context))
