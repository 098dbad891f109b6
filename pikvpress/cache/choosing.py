"""Which candidates a scheduler keeps, where some are removed by whole pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import pad

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import Candidates, Scheduler


def chosen(scheduler: Scheduler, candidates: Candidates, packed: Sequence[int] | None) -> torch.Tensor:
    """Return which candidates stay, bool, shape (batch, kv_heads, entries).

    Entries in few bits share scales within a page, and some schedulers remove whole pages anyway: the entries of such a
    page get its score (`Scheduler.page_score`), and stay only together. Unequal quotas become whole pages; with equal
    ones, a head may keep up to 63 entries fewer than its quota.

    Parameters
    ----------
    scheduler : Scheduler
        The rule.
    candidates : Candidates
        The entries, and how many each KV head may keep.
    packed : sequence of int, optional
        Number of entries in few bits of each head of each row, which come first; None if there are none.
    """
    if not scheduler.drops:
        return candidates.exist
    exist = candidates.exist
    scores = scheduler.scores(candidates).masked_fill(~exist, -torch.inf)
    if packed is None and not scheduler.whole_pages:
        return scheduler.select(scores, candidates)
    count = scores.shape[2]
    together = exist
    if not scheduler.whole_pages:
        assert packed is not None
        places = torch.arange(count, device=scores.device)
        together = places < torch.tensor(packed, device=scores.device).view(*scores.shape[:2], 1)
    of_pages = scheduler.page_score(_pages(scores), _pages(exist))
    candidates = replace(candidates, quotas=in_pages(candidates.quotas))
    kept = scheduler.select(torch.where(together, _spread(of_pages, count), scores), candidates)
    cut = _pages(together & ~kept).any(dim=-1)
    return kept & ~(together & _spread(cut, count))


def in_pages(quotas: Sequence[int]) -> Sequence[int]:
    """Return unequal quotas as whole pages, no more in total: one for every head, if there are as many, then as given.

    Without this, a head with less than a page would lose its first one, and with it the attention sinks. Equal quotas
    are returned as they are.
    """
    left = sum(quotas) // PAGE - len(quotas)
    if len(set(quotas)) == 1 or left < 0:
        return quotas
    wanted = [max(0, quota - PAGE) for quota in quotas]
    shares = [left * more / max(1, sum(wanted)) for more in wanted]
    pages = [int(share) for share in shares]
    largest = sorted(range(len(quotas)), key=lambda head: pages[head] - shares[head])
    for head in largest[: left - sum(pages)]:
        pages[head] += 1
    return [PAGE * (1 + more) for more in pages]


def _pages(entries: torch.Tensor) -> torch.Tensor:
    """Return entries (..., n) by page, (..., pages, 64); the last page is filled up with zeros."""
    return pad(entries, (0, -entries.shape[-1] % PAGE)).unflatten(-1, (-1, PAGE))


def _spread(pages: torch.Tensor, count: int) -> torch.Tensor:
    return pages.repeat_interleave(PAGE, dim=-1)[..., :count]
