"""What is recorded about the entries of a scheduled layer: positions, what was observed, and what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from pikvpress.cache.scheduler import Candidates, Statistics

NOTHING = -1  # position where a head has fewer entries than others


@dataclass(frozen=True, eq=False)
class Ledger:
    """Records of a layer's scheduled entries. Replaced, not modified.

    Parameters
    ----------
    counts : torch.Tensor
        Number of stored entries of each head, int64, shape (batch, kv_heads).
    positions : torch.Tensor
        Position of each stored entry, int32, ascending within a head, head by head without gaps.
    observed : dict of str to torch.Tensor
        Observed statistics of stored and recent entries, shape (batch, kv_heads, stored + recent), where stored is the
        largest of the counts; 0 after the last stored entry of a head that has fewer.
    stored_measures : dict of str to torch.Tensor
        Measured statistics of stored entries, in the order of positions.
    recent_measures : dict of str to torch.Tensor
        Those of the oldest recent entries, as far as they are measured, shape (batch, kv_heads, measured).
    totals : torch.Tensor, optional
        What `Scheduler.measure` has added up, shape (batch, kv_heads, any).
    """

    counts: torch.Tensor
    positions: torch.Tensor
    observed: Statistics = field(default_factory=dict)
    stored_measures: Statistics = field(default_factory=dict)
    recent_measures: Statistics = field(default_factory=dict)
    totals: torch.Tensor | None = None
    stored: int = 0  # the largest of the counts, which would have to be asked for on the device

    @property
    def measured(self) -> int:
        """Number of recent entries that are measured."""
        return next((part.shape[2] for part in self.recent_measures.values()), 0)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        parts = (self.observed, self.stored_measures, self.recent_measures)
        tensors = [self.counts, self.positions, *(tensor for part in parts for tensor in part.values())]
        return sum(tensor.nbytes for tensor in tensors) + (0 if self.totals is None else self.totals.nbytes)

    def padded(self, flat: torch.Tensor, fill: float) -> torch.Tensor:
        """Return numbers of stored entries with shape (batch, kv_heads, stored), filled where there is no entry."""
        places = torch.arange(self.stored, device=flat.device) < self.counts.unsqueeze(-1)
        return torch.full(places.shape, fill, dtype=flat.dtype, device=flat.device).masked_scatter_(places, flat)

    def candidates(self, first: int, leaving: int, length: int, layer: int) -> Candidates:
        """Return the stored entries and the `leaving` oldest recent ones, which begin at position `first`."""
        recent = torch.arange(first, first + leaving, dtype=torch.int32, device=self.positions.device)
        positions = [self.padded(self.positions, NOTHING), recent.expand(*self.counts.shape, -1)]
        statistics = {name: part[..., : self.stored + leaving] for name, part in self.observed.items()}
        for name, part in self.recent_measures.items():
            unknown = part.new_full((*self.counts.shape, max(0, leaving - part.shape[2])), torch.nan)
            stored = self.padded(self.stored_measures[name], torch.nan)
            statistics[name] = torch.cat([stored, part[..., :leaving], unknown], dim=-1)
        return Candidates(torch.cat(positions, dim=-1), statistics, self.stored, length, layer)

    def appended(self, initial: Callable[[str], torch.Tensor]) -> Ledger:
        """Return a copy with recent entries appended, whose observed statistics a function returns by name."""
        observed = {name: torch.cat([part, initial(name)], -1) for name, part in self.observed.items()}
        return replace(self, observed=observed)

    def shortened(self, recent: int) -> Ledger:
        """Return a copy with the stored entries and the first of the recent ones."""
        observed = {name: part[..., : self.stored + recent].clone() for name, part in self.observed.items()}
        measures = {name: part[..., :recent].clone() for name, part in self.recent_measures.items()}
        return replace(self, observed=observed, recent_measures=measures)

    def kept(self, candidates: Candidates, mask: torch.Tensor, most: int) -> Ledger:
        """Return a copy in which the marked candidates are stored.

        Parameters
        ----------
        candidates : Candidates
            What `candidates` returned.
        mask : torch.Tensor
            Which stay, bool, shape (batch, kv_heads, candidates).
        most : int
            The largest number of them in any head.
        """
        leaving = mask.shape[2] - self.stored
        order = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most]
        there = mask.gather(-1, order)
        observed = {
            name: torch.cat([part.gather(-1, order).masked_fill_(~there, 0), part[..., mask.shape[2] :]], dim=-1)
            for name, part in self.observed.items()
        }
        return replace(
            self,
            counts=mask.sum(dim=-1),
            positions=candidates.positions[mask],
            observed=observed,
            stored_measures={name: candidates.statistics[name][mask] for name in self.recent_measures},
            recent_measures={name: part[..., leaving:].clone() for name, part in self.recent_measures.items()},
            stored=most,
        )

    def rows(self, rows: torch.Tensor) -> Ledger:
        """Return a copy with the selected rows of the batch, in the given order."""
        counts = self.counts[rows]
        places = torch.arange(self.stored, device=counts.device) < counts.unsqueeze(-1)
        return replace(
            self,
            counts=counts,
            positions=self.padded(self.positions, NOTHING)[rows][places],
            observed={name: part[rows] for name, part in self.observed.items()},
            stored_measures={name: self.padded(part, 0)[rows][places] for name, part in self.stored_measures.items()},
            recent_measures={name: part[rows] for name, part in self.recent_measures.items()},
            totals=None if self.totals is None else self.totals[rows],
        )

    def to(self, device: torch.device | str) -> Ledger:
        """Return a copy on another device."""
        return replace(
            self,
            counts=self.counts.to(device),
            positions=self.positions.to(device),
            observed={name: part.to(device) for name, part in self.observed.items()},
            stored_measures={name: part.to(device) for name, part in self.stored_measures.items()},
            recent_measures={name: part.to(device) for name, part in self.recent_measures.items()},
            totals=None if self.totals is None else self.totals.to(device),
        )
