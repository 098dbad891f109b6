"""The dense end of a layer: its latest keys and values, as the model made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class DenseTail:
    """Keys and values of every head of every row, of one length; replaced as a whole when it changes.

    Parameters
    ----------
    keys, values : torch.Tensor, optional
        Shape (batch, kv_heads, entries, head_dim). None before a layer has seen any.
    """

    keys: Any = None
    values: Any = None

    @property
    def length(self) -> int:
        """Entries."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the storages, which may be more than those of the entries: presses may leave views."""
        if self.keys is None:
            return 0
        storages = (states.untyped_storage() for states in (self.keys, self.values))
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def appended(self, keys: torch.Tensor, values: torch.Tensor) -> DenseTail:
        """Return the tail with entries after its own."""
        return DenseTail(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))

    def between(self, first: int, last: int) -> DenseTail:
        """Return some entries, as views."""
        return DenseTail(self.keys[:, :, first:last], self.values[:, :, first:last])

    def rows(self, rows: torch.Tensor) -> DenseTail:
        """Return some rows of the batch, in this order."""
        return DenseTail(self.keys[rows], self.values[rows])

    def to(self, device: torch.device | str) -> DenseTail:
        """Return it on another device."""
        return DenseTail(self.keys.to(device), self.values.to(device))

    def copied(self) -> DenseTail:
        """Return a copy that holds nothing else: a view keeps alive all that it is a view of."""
        return DenseTail(self.keys.clone(), self.values.clone())

    def detached(self) -> DenseTail:
        """Return it without the graph of gradients, which cannot be copied or written to a file."""
        return self if self.keys is None else DenseTail(self.keys.detach(), self.values.detach())
