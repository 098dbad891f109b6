"""LRU and LRU+: pages that were not attended to for long go first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import Candidates, Scheduler, Statistics


@dataclass(frozen=True)
class LRUScheduler(Scheduler):
    """Drop the pages of each head that were least recently attended to.

    Least recently used, as operating systems page memory. A page is 64 entries that the head holds one after the other.
    Tokens attend to it if, on average, they give it at least its even share, the number of its entries over that of all
    entries the head holds; a page that was never attended to counts as attended to when its entries were read. Of pages
    that were last attended to by the same token, the older ones go first.
    """

    name: ClassVar[str] = "lru"
    statistics: ClassVar[tuple[str, ...]] = ("last",)
    whole_pages: ClassVar[bool] = True

    def initial(self, statistic: str, positions: torch.Tensor) -> torch.Tensor:
        """Return the positions: an entry is new when it is read."""
        return positions

    def observe(
        self, statistics: Statistics, attention: torch.Tensor, stored: int, length: int, tokens: int
    ) -> Statistics:
        """Note which pages the latest tokens attended to."""
        return {"last": self._last(statistics, attended(attention, stored, tokens), length)}

    def _last(self, statistics: Statistics, seen: torch.Tensor, length: int) -> torch.Tensor:
        return statistics["last"].masked_fill(seen, length - 1)

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the position of the token that last attended to the page of each entry."""
        return candidates.statistics["last"]


def attended(attention: torch.Tensor, stored: int, tokens: int) -> torch.Tensor:
    """Return which entries are in a page that received at least its even share of attention, bool, same shape.

    Parameters
    ----------
    attention : torch.Tensor
        Attention that entries received, shape (batch, kv_heads, stored + recent); 0 where there is no entry.
    stored : int
        Number of places for stored entries; recent ones begin a new page.
    tokens : int
        Number of tokens that gave it.
    """
    held = (attention > 0).sum(dim=-1, keepdim=True)
    parts = []
    for part in (attention[..., :stored], attention[..., stored:]):
        pages = pad(part, (0, -part.shape[-1] % PAGE)).unflatten(-1, (-1, PAGE))
        enough = pages.sum(dim=-1) * held >= tokens * (pages > 0).sum(dim=-1)
        spread = enough.unsqueeze(-1).expand(*enough.shape, PAGE).flatten(-2)  # repeat_interleave is slow on a CPU
        parts.append(spread[..., : part.shape[-1]] & (part > 0))
    return torch.cat(parts, dim=-1)
