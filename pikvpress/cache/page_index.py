"""The index of a layer's stored pages: bounds of their keys, by which a token chooses the pages that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.scheduler import Scheduler
from pikvpress.cache.stretch import Stretch
from pikvpress.kernels.page_bounds import page_bounds, select_pages


@dataclass(frozen=True, eq=False)
class PageIndex:
    """Bounds of the full pages of exact entries: a page is 64 entries of one head that are held one after the other.

    Parameters
    ----------
    lowest, highest : torch.Tensor
        The smallest and the largest number of each channel, shape (batch, kv_heads, pages, head_dim).
    missing : torch.Tensor
        Which pages do not exist, bool, shape (batch, kv_heads, pages).
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    missing: torch.Tensor

    @staticmethod
    def of(stretch: Stretch, heads: int) -> PageIndex:
        """Return the index of a stretch of exact entries with so many KV heads."""
        counts = stretch.counts
        full = [count // PAGE for count in counts]
        most = max(full)
        keys = stretch.keys
        lowest = keys.buffer.new_zeros(len(counts), most, keys.head_dim, dtype=keys.dtype)
        highest = torch.zeros_like(lowest)
        for index, pages in enumerate(full):
            if pages:
                bounds = page_bounds(keys.part(index)[None, None, : pages * PAGE], PAGE)
                lowest[index, :pages], highest[index, :pages] = (bound[0, 0] for bound in bounds)
        places = torch.arange(most, device=keys.buffer.device)
        missing = places >= torch.tensor(full, device=places.device)[:, None]
        return PageIndex(*(part.unflatten(0, (-1, heads)) for part in (lowest, highest, missing)))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.lowest.nbytes + self.highest.nbytes + self.missing.nbytes

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PageIndex:
        """Return a copy with all tensors changed by a function, such as a selection of rows."""
        return PageIndex(change(self.lowest), change(self.highest), change(self.missing))

    def chosen(
        self, query: torch.Tensor, stretch: Stretch, count: int, scheduler: Scheduler
    ) -> tuple[SomeRows, SomeRows]:
        """Return the keys and values of the best pages of each head, and those after its last full page.

        Parameters
        ----------
        query : torch.Tensor
            Shape (batch, heads, 1, head_dim).
        stretch : Stretch
            The stretch that the index is of.
        count : int
            Number of pages.
        scheduler : Scheduler
            Gives the value of a page.
        """
        if self.lowest.shape[2] <= count:
            return SomeRows(stretch.keys, None), SomeRows(stretch.values, None)
        scores = scheduler.page_scores(query, self.lowest, self.highest)[:, :, 0]
        best = select_pages(scores.masked_fill(self.missing, -torch.inf), count).flatten(0, 1)
        rows = (best.unsqueeze(-1) * PAGE + torch.arange(PAGE, device=best.device)).flatten(1)
        chosen = []
        for index, entries in enumerate(stretch.counts):
            full = entries // PAGE
            after = torch.arange(full * PAGE, entries, device=rows.device)
            these = rows[index] if full > count else torch.arange(full * PAGE, device=rows.device)
            chosen.append(torch.cat([these, after]) if len(after) else these)
        return SomeRows(stretch.keys, chosen), SomeRows(stretch.values, chosen)


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some rows of each part of exact keys or values, as `kernels.ragged_attention.Rows`.

    Parameters
    ----------
    source : Ragged
        All of them.
    rows : list of torch.Tensor, optional
        Indices of the rows of each part; None for all.
    """

    source: Ragged
    rows: list[torch.Tensor] | None

    @property
    def layout(self) -> None:
        """None: the rows do not lie together."""
        return None

    def part(self, index: int) -> torch.Tensor:
        """Return the rows of a part, shape (entries, head_dim)."""
        part = self.source.part(index)
        return part if self.rows is None else part[self.rows[index]]

    def rotated_part(self, index: int) -> None:
        """Return None: exact rows are not rotated."""
