"""What a scheduler decides: which entries a layer keeps once they have left the recent window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from pikvpress.cache.tail import DenseTail
from pikvpress.kernels.compact import highest
from pikvpress.ranks import HeadShard
from pikvpress.support.registry import Registry

Statistics = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Entries of a layer behind its recent window, of which a scheduler keeps some; in position order.

    Parameters
    ----------
    positions : torch.Tensor
        Position of each entry in the text, int32, shape (batch, kv_heads, entries); -1 where a head has fewer.
    statistics : mapping of str to torch.Tensor
        What the scheduler has recorded about each entry, each of the same shape; measures are NaN where unknown.
    stored : int
        Number of places for stored entries, which come first.
    length : int
        Number of tokens that the layer has read so far.
    layer : int
        Index of the layer.
    left : int
        Number of scheduled entries that have left the window, stored or dropped.
    quotas : sequence of int
        Number of these entries that each KV head may keep.
    """

    positions: torch.Tensor
    statistics: Mapping[str, torch.Tensor]
    stored: int
    length: int
    layer: int
    left: int = 0
    quotas: Sequence[int] = ()

    @property
    def exist(self) -> torch.Tensor:
        """Which places hold an entry, bool, shape (batch, kv_heads, entries)."""
        return self.positions >= 0


class Scheduler:
    """A rule by which a layer of a `PiKVCache` stays within its ceiling, from the first token to the last.

    Entries leave the recent window in pages of 64. Each time, the scheduler scores them and those that are already
    stored, and the highest-scoring ones of every head stay. A scheduler holds settings and what it knows of a model,
    but nothing about a cache: what it records about entries is passed to it.

    Attributes
    ----------
    name : str
        Name in `SCHEDULERS`.
    statistics : tuple of str
        What it records about each entry whenever tokens read the layer.
    measures : tuple of str
        What it records about each entry once, from its key and value, when it leaves the window.
    drops : bool
        Whether it removes entries; otherwise it reads only some pages of them for each token, see `page_scores`.
    whole_pages : bool
        Whether the 64 entries of a stored page are removed together.
    """

    name: ClassVar[str]
    statistics: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()
    drops: ClassVar[bool] = True
    whole_pages: ClassVar[bool] = False

    @property
    def ceilings(self) -> tuple[str, ...]:
        """Which kinds of ceilings it keeps."""
        return ("max_tokens", "max_bytes", "ratio")

    def __deepcopy__(self, memo: dict[int, Any]) -> Scheduler:
        """Return self: a copied cache has the same scheduler."""
        return self

    def for_model(self, module: Any) -> Scheduler:
        """Return the scheduler with what it needs to know of the model that has this attention module as layer 0.

        Raises
        ------
        ValueError
            If something is missing, such as fitted gates.
        """
        return self

    def for_shard(self, shard: HeadShard) -> Scheduler:
        """Return the scheduler for the heads of the model that a rank holds; `for_model` does so, too."""
        return self

    def saved(self) -> dict[str, Any]:
        """Return what `restored` needs to return this scheduler: numbers, strings, lists and tensors, by name."""
        names = [field.name for field in fields(self) if not field.name.startswith("_")]  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Scheduler:
        """Return the scheduler from what `saved` returned."""
        return cls(**saved)

    def initial(self, statistic: str, positions: torch.Tensor) -> torch.Tensor:
        """Return a statistic, int or float, for entries of which it was never recorded, from their positions."""
        return torch.zeros_like(positions)

    def observe(
        self, statistics: Statistics, attention: torch.Tensor, stored: int, length: int, tokens: int
    ) -> Statistics:
        """Return the statistics after one more reading of the layer.

        Parameters
        ----------
        statistics : dict of str to torch.Tensor
            Of all entries, each of shape (batch, kv_heads, stored + recent).
        attention : torch.Tensor
            Attention that each entry received from all these tokens, averaged over the query heads of its KV head;
            float32 (float64 of float64), same shape. It may be modified.
        stored : int
            Number of places for stored entries, which come first.
        length : int
            Number of tokens that the layer has read, including these.
        tokens : int
            Number of tokens that have just read it.
        """
        raise NotImplementedError

    def measure(
        self, leaving: DenseTail, angles: tuple[torch.Tensor, torch.Tensor], totals: torch.Tensor | None, layer: int
    ) -> tuple[Statistics, torch.Tensor]:
        """Return statistics of entries that leave the window, each of shape (batch, kv_heads, entries), and new totals.

        Parameters
        ----------
        leaving : DenseTail
            Their keys and values.
        angles : pair of torch.Tensor
            Cosines and sines of their rotation, shape (1, entries, rotary_dim).
        totals : torch.Tensor, optional
            What the scheduler returned for earlier entries.
        layer : int
            Index of the layer.
        """
        raise NotImplementedError

    def quotas(self, layer: int, heads: int, left: int, mean: int) -> Sequence[int]:
        """Return the number of stored entries that each KV head may hold; by default the same.

        Parameters
        ----------
        layer, heads : int
            Index of the layer, and its number of KV heads.
        left : int
            Number of scheduled entries that have left the window, stored or dropped.
        mean : int
            Mean of the quotas over all heads.
        """
        return [mean] * heads

    def widest(self, heads: int) -> float:
        """Return how many times the mean number of stored entries one head may hold at most."""
        return 1.0

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the value of each candidate, shape (batch, kv_heads, entries), higher = keep."""
        raise NotImplementedError

    def page_score(self, scores: torch.Tensor, exist: torch.Tensor) -> torch.Tensor:
        """Return the score of pages whose entries stay only together, comparable with scores of entries: their mean.

        Parameters
        ----------
        scores : torch.Tensor
            Scores of entries by page, shape (batch, kv_heads, pages, 64).
        exist : torch.Tensor
            Where there are entries, bool, same shape.
        """
        return scores.masked_fill(~exist, 0).sum(dim=-1) / exist.sum(dim=-1).clamp_min(1)

    def select(self, scores: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return which candidates stay, bool: of each head the highest scores, of equal ones the latest.

        Parameters
        ----------
        scores : torch.Tensor
            Shape (batch, kv_heads, entries); -inf where there is no entry.
        candidates : Candidates
            The entries, and how many each head may keep.
        """
        counts = torch.tensor(candidates.quotas, device=scores.device).clamp_max(scores.shape[-1])
        return highest(scores.flip(-1), counts).flip(-1) & candidates.exist

    def page_scores(self, query: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
        """Return the value of each page for a token, shape (batch, kv_heads, 1, pages), if pages are read selectively.

        Parameters
        ----------
        query : torch.Tensor
            Shape (batch, heads, 1, head_dim).
        lowest, highest : torch.Tensor
            Bounds of the keys of each page, shape (batch, kv_heads, pages, head_dim).
        """
        raise NotImplementedError


# Filled by `pikvpress.schedulers`, which knows the rules; the cache only applies them.
SCHEDULERS: Registry[type[Scheduler]] = Registry("scheduler")


def known(choice: str | Scheduler) -> Scheduler:
    """Return the scheduler with a given name and its default settings; schedulers are returned unchanged.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For anything else.
    """
    if isinstance(choice, Scheduler):
        return choice
    if not isinstance(choice, str):
        raise TypeError(f"a scheduler is a name or an instance of Scheduler, got {choice!r}")
    return SCHEDULERS[choice]()
