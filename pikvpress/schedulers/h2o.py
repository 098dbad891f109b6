"""H2O: heavy hitters and recent entries (https://arxiv.org/abs/2306.14048)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pikvpress.cache.scheduler import Candidates, Scheduler, Statistics


@dataclass(frozen=True)
class H2OScheduler(Scheduler):
    """Keep the entries that have received most attention so far, and the recent window.

    H2O, https://arxiv.org/abs/2306.14048. The score of entry i of a head is Σ_t a[t, i], the attention that it received
    from all tokens t since it was read, averaged over the query heads that share the KV head. The recent entries, half
    of the budget in the paper, are the cache's `window`. When a page leaves it, the lowest-scoring of the stored and
    the leaving entries go, whatever their page.
    """

    name: ClassVar[str] = "h2o"
    statistics: ClassVar[tuple[str, ...]] = ("mass",)

    def observe(
        self, statistics: Statistics, attention: torch.Tensor, stored: int, length: int, tokens: int
    ) -> Statistics:
        """Add the attention of the latest tokens to the mass of each entry."""
        return {"mass": attention.add_(statistics["mass"])}

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the accumulated attention of each entry."""
        return candidates.statistics["mass"]
