"""kvpress's Compactor with our implementation of its attention."""

from __future__ import annotations

from dataclasses import dataclass

from kvpress import CompactorPress

from pikvpress.experts.leverage import StreamedLeverageScorePress
from pikvpress.experts.non_causal import StreamedNonCausalAttnPress


@dataclass
class StreamedCompactorPress(CompactorPress):
    """Score keys as kvpress's `CompactorPress` does (https://arxiv.org/abs/2507.08143).

    The settings are the same and, in float32, so are the scores.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._leverage_press = StreamedLeverageScorePress(self.compression_ratio, self.sketch_dimension)
        self._non_causal_press = StreamedNonCausalAttnPress(self.compression_ratio, chunk_size=self.chunk_size)
