"""StreamingLLM: attention sinks and a window (https://arxiv.org/abs/2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pikvpress.cache.scheduler import Candidates, Scheduler


@dataclass(frozen=True)
class StreamingLLMScheduler(Scheduler):
    """Keep the first entries, which receive attention whatever they say, and the latest ones.

    StreamingLLM, https://arxiv.org/abs/2309.17453. Of a head that may store n entries, the first `sinks` and the latest
    n - `sinks` stay. Keys keep the rotation of their original position: in the paper, positions are counted within the
    cache, which matters once a text is longer than the model was trained for.

    Parameters
    ----------
    sinks : int, default=4
        Number of first entries that stay.

    Raises
    ------
    ValueError
        If the number of sinks is negative.
    """

    name: ClassVar[str] = "streaming_llm"

    sinks: int = 4

    def __post_init__(self) -> None:
        check_sinks(self.sinks)

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the position of each entry, infinite for sinks."""
        return recency(candidates, self.sinks)


def recency(candidates: Candidates, sinks: int) -> torch.Tensor:
    """Return the position of each entry, infinite for the first ones; float32, shape (batch, kv_heads, entries)."""
    return candidates.positions.float().masked_fill(candidates.positions < sinks, torch.inf)


def check_sinks(sinks: int) -> None:
    """Raise a ``ValueError`` if the number of sinks is negative."""
    if sinks < 0:
        raise ValueError(f"sinks is the number of first entries that stay and must be at least 0, got {sinks}")
