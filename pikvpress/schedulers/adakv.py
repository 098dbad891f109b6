"""Ada-KV: the heads of a layer compete for one pool of entries (https://arxiv.org/abs/2407.11550)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch.nn.functional import pad

from pikvpress.budgets.pooled import FLOOR, pooled
from pikvpress.cache.scheduler import Candidates
from pikvpress.ranks import HeadShard, shard_of
from pikvpress.schedulers.h2o import H2OScheduler


@dataclass(frozen=True)
class AdaKVScheduler(H2OScheduler):
    """Keep the entries of highest score in a layer, whichever head they belong to, but some of every head.

    Ada-KV, https://arxiv.org/abs/2407.11550: with a mean budget of n entries for each of H heads, every head keeps its
    own floor · n highest-scoring entries, and the rest of the H · n entries are the highest-scoring of all heads
    together. The paper scores a finished prompt by the attention of its last tokens; here, where entries are dropped
    while the text goes on, the score is the attention accumulated so far, as in `H2OScheduler`.

    Parameters
    ----------
    floor : float, default=0.2
        Share of the mean budget that every head keeps, in [0, 1].

    Raises
    ------
    ValueError
        If the floor is out of range.
    """

    name: ClassVar[str] = "adakv"

    floor: float = FLOOR
    _shard: HeadShard | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is a share of the mean budget and must be in [0, 1], got {self.floor}")

    def for_model(self, module: Any) -> AdaKVScheduler:
        """Return the scheduler for the heads that this rank holds of the model."""
        return self.for_shard(shard_of(module))

    def for_shard(self, shard: HeadShard) -> AdaKVScheduler:
        """Return the scheduler for the heads of the model that a rank holds."""
        return replace(self, _shard=shard)

    def widest(self, heads: int) -> float:
        """Return how many times the mean one head may hold: all that others leave."""
        return heads - (heads - 1) * self.floor

    def select(self, scores: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return which candidates stay: each head's floor first, then the highest scores of the layer."""
        mean, width = candidates.quotas[0], scores.shape[2]
        if self._shard is not None and not self._shard.is_whole:  # heads of other ranks compete, and may hold more
            widest = max(self._shard.collected(width))
            padded = pad(scores, (0, widest - width), value=-torch.inf)
            scores = self._shard.gathered(padded, 1)
        if scores.shape[2] <= mean:
            return candidates.exist
        (kept,) = pooled([scores], mean, self.floor)
        kept = kept if self._shard is None else self._shard.cut(kept, 1)
        return kept[..., :width] & candidates.exist
