"""Adaptive: the rule of a published scheduler that suits what is read and how little may be held."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import Candidates, Scheduler, Statistics
from pikvpress.ranks import HeadShard, shard_of
from pikvpress.schedulers.adakv import AdaKVScheduler
from pikvpress.schedulers.h2o import H2OScheduler
from pikvpress.schedulers.streaming_llm import StreamingLLMScheduler

STREAMING, EACH_HEAD = StreamingLLMScheduler(), H2OScheduler()


@dataclass(frozen=True)
class AdaptiveScheduler(Scheduler):
    """Stream where nothing would be missed; otherwise keep what is attended to, in one pool if memory is scarce.

    A rule of pikvpress over published ones. Whenever a page leaves the window of a layer, two numbers decide:

    - *missed*: the share of their attention that the latest tokens gave to entries that `StreamingLLMScheduler` would
      drop now, averaged over heads. The attention of a token counts half as much after every 64 tokens.
    - *pressure*: the share of the entries behind the window, stored or dropped before, that the layer cannot hold.

    If missed ≤ `tolerance`, the entries that `StreamingLLMScheduler` keeps stay (https://arxiv.org/abs/2309.17453).
    Otherwise, heads need different entries: with pressure < `pressure` those that `H2OScheduler` keeps
    (https://arxiv.org/abs/2306.14048); from there on those that `AdaKVScheduler` keeps, which lets heads that need more
    take from the others (https://arxiv.org/abs/2407.11550). Each sequence of a batch is decided about by itself, but
    pressure is the same for all.

    Parameters
    ----------
    tolerance : float, default=0.05
        Share of the latest attention that may be missed, in [0, 1].
    pressure : float, default=0.75
        From which pressure on the heads share a pool, in [0, 1].

    Raises
    ------
    ValueError
        If a share is out of range.
    """

    name: ClassVar[str] = "adaptive"
    statistics: ClassVar[tuple[str, ...]] = ("mass", "lately")

    tolerance: float = 0.05
    pressure: float = 0.75
    _pooled: AdaKVScheduler = field(default_factory=AdaKVScheduler, repr=False, compare=False)
    _shard: HeadShard | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, share in (("tolerance", self.tolerance), ("pressure", self.pressure)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share and must be in [0, 1], got {share}")

    def for_model(self, module: Any) -> AdaptiveScheduler:
        """Return the scheduler for the heads that this rank holds of the model."""
        return self.for_shard(shard_of(module))

    def for_shard(self, shard: HeadShard) -> AdaptiveScheduler:
        """Return the scheduler for the heads of the model that a rank holds."""
        return replace(self, _pooled=self._pooled.for_shard(shard), _shard=shard)

    def widest(self, heads: int) -> float:
        """Return how many times the mean one head may hold: as much as in a pool."""
        return self._pooled.widest(heads)

    def observe(
        self, statistics: Statistics, attention: torch.Tensor, stored: int, length: int, tokens: int
    ) -> Statistics:
        """Add the attention of the latest tokens to the mass of each entry, and to its average over recent tokens."""
        remains = 0.5 ** (tokens / PAGE)
        lately = statistics["lately"] * remains + attention * ((1 - remains) / tokens)
        return EACH_HEAD.observe(statistics, attention, stored, length, tokens) | {"lately": lately}

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the recency of entries in sequences that stream, their accumulated attention in the others."""
        streams = self._streams(candidates)
        return torch.where(streams, STREAMING.scores(candidates), EACH_HEAD.scores(candidates))

    def select(self, scores: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """Return which candidates stay: of each head the best or, under pressure, of the layer."""
        each = super().select(scores, candidates)
        mean = sum(candidates.quotas) / len(candidates.quotas)
        if 1 - mean / candidates.left < self.pressure:
            return each
        return torch.where(self._streams(candidates), each, self._pooled.select(scores, candidates))

    def _streams(self, candidates: Candidates) -> torch.Tensor:
        """Return in which sequences too little would be missed to matter, bool, shape (batch, 1, 1)."""
        recency = STREAMING.scores(candidates).masked_fill(~candidates.exist, -torch.inf)
        dropped = candidates.exist & ~super().select(recency, candidates)
        missed = (candidates.statistics["lately"] * dropped).sum(dim=-1, keepdim=True)
        missed = missed if self._shard is None else self._shard.gathered(missed, 1)
        return missed.mean(dim=1, keepdim=True) <= self.tolerance
