"""The records of one layer of a scheduled cache: a ledger, and how a scheduler's observations enter it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from pikvpress.cache.entries import Entries
from pikvpress.cache.ledger import Ledger
from pikvpress.cache.schedule import Schedule


class Records:
    """What is recorded about a layer's scheduled entries, in the order in which the layer holds them.

    Parameters
    ----------
    schedule : Schedule
        What all layers share.
    layer : int
        Index of the layer.
    entries : Entries
        What the layer holds; it must hold an entry.
    fixed : list of int
        Number of entries of each head of each row that a press has compressed, which are not recorded.
    """

    def __init__(self, schedule: Schedule, layer: int, entries: Entries, fixed: list[int]):
        self._schedule, self._layer = schedule, layer
        keys = entries.tail.keys
        nothing = torch.empty(*keys.shape[:2], 0, dtype=torch.int32, device=keys.device)
        counts = torch.zeros(keys.shape[:2], dtype=torch.int64, device=keys.device)
        observed = {name: self._initial(name, nothing, entries) for name in schedule.scheduler.statistics}
        self.ledger = Ledger(counts, nothing.flatten(), observed)
        self._before = torch.tensor(fixed, device=keys.device).view(*keys.shape[:2], 1) if any(fixed) else None
        self._append(entries)

    @classmethod
    def of(cls, schedule: Schedule, layer: int, ledger: Ledger, before: torch.Tensor | None) -> Records:
        """Return records that were made earlier, with the number of entries before those that are recorded."""
        records = cls.__new__(cls)
        records._schedule, records._layer, records.ledger, records._before = schedule, layer, ledger, before
        return records

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.ledger.nbytes + (0 if self._before is None else self._before.nbytes)

    def _initial(self, name: str, positions: torch.Tensor, entries: Entries) -> torch.Tensor:
        wide = torch.promote_types(entries.tail.keys.dtype, torch.float32)
        return self._schedule.scheduler.initial(name, positions).to(wide)

    def arrived(self, entries: Entries, tokens: int, rotation: dict[str, Any] | None) -> None:
        """Record that so many entries were appended; `rotation` may hold their cosines and sines."""
        self._append(entries)
        if self._schedule.scheduler.measures and rotation is not None and _is_along_axes(rotation):
            raise ValueError(
                f"the scheduler {self._schedule.scheduler.name!r} sees keys as they were before rotation, and this "
                "model gives a cache rotations along three axes, without saying which channels each turns: use 'h2o'"
            )
        if self._schedule.scheduler.measures and self._layer == 0 and rotation is not None and "cos" in rotation:
            self._schedule.angles.add(entries.length - tokens, rotation["cos"][:1], rotation["sin"][:1])

    def _append(self, entries: Entries) -> None:
        if not self.ledger.observed:
            return
        known = next(iter(self.ledger.observed.values())).shape[2] - self.ledger.stored
        first = entries.length - entries.tail.length
        places = torch.arange(first + known, entries.length, dtype=torch.int32, device=self.ledger.positions.device)
        places = places.expand(*self.ledger.counts.shape, -1)
        self.ledger = self.ledger.appended(lambda name: self._initial(name, places, entries))

    def observed(self, entries: Entries, attention: torch.Tensor, tokens: int) -> None:
        """Record the attention that entries received from the latest tokens.

        Parameters
        ----------
        entries : Entries
            What the layer holds.
        attention : torch.Tensor
            Shape (batch, kv_heads, places of entries behind the window + recent ones), averaged over query heads.
        tokens : int
            Number of tokens.
        """
        ledger, recent = self.ledger, entries.tail.length
        if self._before is not None:  # in every head, the entries that are not recorded come first
            held = attention[..., : attention.shape[-1] - recent]
            places = torch.arange(ledger.stored, device=attention.device) + self._before
            held = held.gather(-1, places.clamp_max(held.shape[-1] - 1))
            attention = torch.cat([held, attention[..., attention.shape[-1] - recent :]], dim=-1)
        observe = self._schedule.scheduler.observe
        observed = observe(ledger.observed, attention, ledger.stored, entries.length, tokens)
        self.ledger = replace(ledger, observed=observed)

    def measured(self, entries: Entries, count: int) -> None:
        """Let the scheduler measure the `count` oldest recent entries, unless it has, or their rotation is unknown."""
        ledger, scheduler, angles = self.ledger, self._schedule.scheduler, self._schedule.angles
        first = entries.length - entries.tail.length - self._schedule.longer.get(self._layer, 0)
        known = ledger.measured
        begin = max(known, min(count, angles.first - first))
        if not scheduler.measures or known >= count or angles.last < first + count:
            return
        leaving = entries.tail.between(begin, count)
        rotation = angles.between(first + begin, first + count, leaving.keys.device)
        found, totals = scheduler.measure(leaving, rotation, ledger.totals, self._layer)
        measures = {}
        for name, part in found.items():
            unknown = part.new_full((*part.shape[:2], begin - known), torch.nan)
            measures[name] = torch.cat([*self._recent(name), unknown, part], dim=-1)
        stored = {name: ledger.stored_measures.get(name, self._unknown(part)) for name, part in found.items()}
        self.ledger = replace(ledger, stored_measures=stored, recent_measures=measures, totals=totals)

    def _recent(self, name: str) -> list[torch.Tensor]:
        return [self.ledger.recent_measures[name]] if name in self.ledger.recent_measures else []

    def _unknown(self, like: torch.Tensor) -> torch.Tensor:
        return torch.full_like(self.ledger.positions, torch.nan, dtype=like.dtype)

    def switched(self, schedule: Schedule, entries: Entries) -> Records:
        """Return the records for another schedule: what both record is taken over."""
        records = copy.copy(self)
        records._schedule = schedule
        tail, ledger = entries.tail, self.ledger
        everything = ledger.candidates(entries.length - tail.length, tail.length, entries.length, self._layer).positions
        names = schedule.scheduler.statistics
        observed = {name: records._initial(name, everything, entries) for name in names}
        records.ledger = replace(ledger, observed={name: ledger.observed.get(name, observed[name]) for name in names})
        if not schedule.scheduler.measures:
            records.ledger = replace(records.ledger, stored_measures={}, recent_measures={}, totals=None)
        return records

    def selected(self, rows: torch.Tensor) -> None:
        """Continue with the selected rows of the batch."""
        self.ledger = self.ledger.rows(rows)
        self._before = None if self._before is None else self._before[rows]

    def to(self, device: torch.device | str) -> None:
        """Move the records to a device."""
        self.ledger = self.ledger.to(device)
        self._before = None if self._before is None else self._before.to(device)


def _is_along_axes(rotation: dict[str, Any]) -> bool:
    """Return whether cosines are of time, height and width apart, shape (3, batch, tokens, rotary_dim)."""
    return "cos" in rotation and rotation["cos"].dim() == 4
