"""DuoAttention: retrieval heads hold everything, the others stream (https://arxiv.org/abs/2410.10819)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from pikvpress.budgets import counts_by_curves
from pikvpress.cache.scheduler import Candidates, Scheduler
from pikvpress.gates import gates_of
from pikvpress.ranks import HeadShard, shard_of
from pikvpress.schedulers.heads import check_heads
from pikvpress.schedulers.streaming_llm import check_sinks, recency

COMPARED = (0.75, 1024, 256)  # ratio, length and mean budget at which fitted head budgets are compared


@dataclass(frozen=True, eq=False)
class DuoScheduler(Scheduler):
    """Keep everything in retrieval heads; sinks and recent entries in the others.

    DuoAttention, https://arxiv.org/abs/2410.10819, where training finds out which heads retrieve. Here these are the
    heads to which the fitted head budgets of the gates give most tokens, unless their importance is given. As many
    heads of a layer hold everything as its ceiling allows, the most important ones first, and the next one as many
    recent entries as are left; with a ceiling in tokens or bytes, they become fewer as the text grows.

    Parameters
    ----------
    sinks : int, default=4
        Number of first entries that streaming heads keep.
    recent : int, default=64
        Number of entries behind the window that streaming heads keep, if the ceiling allows.
    importance : torch.Tensor, optional
        How much a head retrieves, shape (layers, kv_heads), such as 1 and 0. By default, the fitted budgets of the
        model's gates.

    Raises
    ------
    ValueError
        If a number is negative; when a model is first read, if there are no gates with error curves for it, or
        `importance` is for other heads.
    """

    name: ClassVar[str] = "duo"

    sinks: int = 4
    recent: int = 64
    importance: torch.Tensor | None = None
    _shard: HeadShard | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_sinks(self.sinks)
        if self.recent < 0:
            raise ValueError(f"recent is a number of entries and must be at least 0, got {self.recent}")

    def for_model(self, module: Any) -> DuoScheduler:
        """Return the scheduler with the importance of the model's heads."""
        if self.importance is not None:
            check_heads("importance", self.importance, module)
            return replace(self, _shard=shard_of(module))
        gates = gates_of(module)
        if gates is None or gates.curves is None:
            raise ValueError(
                "scheduler 'duo' takes retrieval heads from fitted head budgets, and there are no gates with error "
                "curves for this model: run `pikvpress calibrate`, or pass DuoScheduler(importance=...)"
            )
        return replace(self, importance=counts_by_curves(gates, *COMPARED), _shard=shard_of(module))

    def for_shard(self, shard: HeadShard) -> DuoScheduler:
        """Return the scheduler for the heads of the model that a rank holds."""
        return replace(self, _shard=shard)

    def widest(self, heads: int) -> float:
        """Return how many times the mean one head may hold: all that others leave."""
        return heads

    def quotas(self, layer: int, heads: int, left: int, mean: int) -> Sequence[int]:
        """Return everything for the most important heads, as long as the others can stream."""
        assert self.importance is not None
        importance = self.importance[layer].tolist()
        heads = len(importance)  # of the model, of which a rank may hold only some
        least = min(mean, self.sinks + self.recent)
        quotas, spare = [least] * heads, heads * (mean - least)
        for head in sorted(range(heads), key=lambda head: -importance[head]):
            more = min(max(0, left - least), spare)
            quotas[head], spare = least + more, spare - more
        return quotas if self._shard is None else self._shard.own(quotas)

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the position of each entry, infinite for sinks."""
        return recency(candidates, self.sinks)
