"""LRU+: recency and frequency together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pikvpress.cache.scheduler import Candidates, Statistics
from pikvpress.schedulers.lru import LRUScheduler, attended


@dataclass(frozen=True)
class LRUPlusScheduler(LRUScheduler):
    """Drop the pages of each head that were attended to long ago and rarely.

    LRU+ of PiKV, https://arxiv.org/abs/2508.06526: the score of a page is -r + λ f. r is the number of tokens since it
    was last attended to, f the number of tokens that attended to it; pages and attending to them are as in
    `LRUScheduler`.

    Parameters
    ----------
    weight : float, default=1.0
        λ, at least 0: how many tokens of age one more use makes up for.

    Raises
    ------
    ValueError
        If the weight is negative.
    """

    name: ClassVar[str] = "lru_plus"
    statistics: ClassVar[tuple[str, ...]] = ("last", "uses")

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight is the value of a use, in tokens of age, and must be at least 0: {self.weight}")

    def initial(self, statistic: str, positions: torch.Tensor) -> torch.Tensor:
        """Return when an entry was last used, at first its position, or how often, at first never."""
        return positions if statistic == "last" else torch.zeros_like(positions)

    def observe(
        self, statistics: Statistics, attention: torch.Tensor, stored: int, length: int, tokens: int
    ) -> Statistics:
        """Note which pages the latest tokens attended to, and how many tokens these are."""
        seen = attended(attention, stored, tokens)
        return {"last": self._last(statistics, seen, length), "uses": statistics["uses"] + tokens * seen}

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return -r + λ f of the page of each entry."""
        age = candidates.length - 1 - candidates.statistics["last"]
        return self.weight * candidates.statistics["uses"] - age
