"""The dense end of a layer: its latest keys and values, as computed by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class DenseTail:
    """Keys and values of every head of every row, with one length; replaced, not modified, when they change.

    Parameters
    ----------
    keys, values : torch.Tensor, optional
        Shape (batch, kv_heads, entries, head_dim). None as long as the layer has no entries.
    known : int, default=0
        Number of first entries that a slower tier holds too.
    """

    keys: Any = None
    values: Any = None
    known: int = field(default=0, kw_only=True)

    @property
    def length(self) -> int:
        """Number of entries."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the storages, which may be larger than the entries: presses may leave views."""
        if self.keys is None:
            return 0
        storages = (states.untyped_storage() for states in (self.keys, self.values))
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def appended(self, keys: torch.Tensor, values: torch.Tensor) -> DenseTail:
        """Return a copy with entries appended."""
        keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        return replace(self, keys=keys, values=values)

    def between(self, first: int, last: int) -> DenseTail:
        """Return some entries, as views."""
        known = min(self.known, last) if first == 0 else 0
        return DenseTail(self.keys[:, :, first:last], self.values[:, :, first:last], known=known)

    def rows(self, rows: torch.Tensor) -> DenseTail:
        """Return the selected rows of the batch, in the given order."""
        return DenseTail(self.keys[rows], self.values[rows])

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> DenseTail:
        """Return a copy with keys and values changed by a function, such as a move to another device."""
        return replace(self, keys=change(self.keys), values=change(self.values))

    def copied(self) -> DenseTail:
        """Return a copy with its own storage: a view keeps the entire underlying tensor alive."""
        return self.each(torch.clone)

    def detached(self) -> DenseTail:
        """Return a copy detached from the autograd graph, which can be neither copied nor saved."""
        return self if self.keys is None else self.each(torch.detach)
