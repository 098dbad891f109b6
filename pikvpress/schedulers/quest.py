"""Quest: hold everything, read the pages that matter for a token (https://arxiv.org/abs/2406.10774)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pikvpress.cache.scheduler import Scheduler
from pikvpress.kernels.page_bounds import page_scores


@dataclass(frozen=True)
class QuestScheduler(Scheduler):
    """Drop nothing, but let every token read only the pages of each head in which it can find most.

    Quest, https://arxiv.org/abs/2406.10774. A page is 64 entries. What query q finds in a key of a page is at most
    Σ_d max(q_d · lowest_d, q_d · highest_d), with the smallest and the largest number of each channel among the page's
    keys; of the query heads that share a KV head, the largest bound counts. The pages of highest bound are read, the
    recent window and entries that do not fill a page always. The ceiling is therefore one of what is read: with
    `max_tokens` each head of a generated token reads at most so many entries, with `ratio` that share of them less.
    Several tokens that are read at once, such as a prompt, read everything.
    """

    name: ClassVar[str] = "quest"
    drops: ClassVar[bool] = False

    @property
    def ceilings(self) -> tuple[str, ...]:
        """Which kinds of ceilings it keeps: not of bytes, since everything is held."""
        return ("max_tokens", "ratio")

    def page_scores(self, query: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
        """Return the bound of each page, shape (batch, kv_heads, 1, pages)."""
        return page_scores(query, lowest, highest)
