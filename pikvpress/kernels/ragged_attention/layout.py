"""Where a cache's keys or values lie in memory, for kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass(frozen=True, eq=False)
class Layout:
    """Parts of a buffer, one for each KV head of each row of a batch, by row and then head.

    A part of `bits` a number holds scales, then zero points, both float16, then rows of codes, each row filled up to
    whole bytes, the first code in the lowest bits. Keys have a scale for each channel of every `group` entries, values
    for each `group` channels of every entry. Exact parts are rows of numbers. A rotated part holds rows of codes, then
    a scale a row, the first row as it is if it is a lead, and of keys a mean for every block, all float16; see
    `pikvpress.kernels.rotation`.

    Parameters
    ----------
    buffer : torch.Tensor
        uint8.
    dtype : torch.dtype
        Of exact numbers.
    starts : sequence of int
        Byte at which each part begins.
    counts : sequence of int
        Entries of each part.
    bits : sequence of int
        Of each part's numbers: 8 to 1, or 0 for exact ones.
    blocks : sequence of int
        Entries of each part's blocks if it is rotated, a multiple of `group`; 0 if it is not.
    leads : sequence of int
        Rows at each part's beginning that are kept as they are if it is rotated: 1 or 0.
    channels : sequence of (torch.Tensor or None)
        Which channels each part has, int16; None for all. The others are 0.
    head_dim : int
        Channels of an entry.
    group : int
        Numbers that share a scale.
    """

    buffer: torch.Tensor
    dtype: torch.dtype
    starts: Sequence[int]
    counts: Sequence[int]
    bits: Sequence[int]
    blocks: Sequence[int]
    leads: Sequence[int]
    channels: Sequence[torch.Tensor | None]
    head_dim: int
    group: int
    plans: dict[int, Any] = field(default_factory=dict, init=False, repr=False)  # kept by `plan`


class Rows(Protocol):
    """Keys or values of every KV head of every row of a batch, stored in any way."""

    @property
    def layout(self) -> Layout | None:
        """Where they lie; None if only `part` can read them."""

    def part(self, index: int) -> torch.Tensor:
        """Return those of head ``index % kv_heads`` of row ``index // kv_heads``, shape (entries, head_dim)."""

    def rotated_part(self, index: int) -> torch.Tensor | None:
        """Return the same, turned by `kernels.rotation.rotation`, if they are stored so; None otherwise."""
