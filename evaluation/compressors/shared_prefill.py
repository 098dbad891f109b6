"""Presses that act after attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.compressed import CompressedContext
from evaluation.compressors.own_prefill import OwnPrefill
from evaluation.compressors.shared_scores import SharedScores

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.units import Sample


@dataclass(frozen=True)
class SharedPrefill(OwnPrefill):
    """The press acts only in hooks after attention, so that one prefill serves it and others, at every ratio.

    In a study that does not share prefills, the press has its own.

    Parameters
    ----------
    masks : bool, default=False
        Whether removed entries are only masked, so that their bytes are still held.
    scores_once : bool, default=False
        Whether its scores depend neither on the ratio nor on random numbers, so that they serve every ratio.
    """

    scores_once: bool = False

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press."""
        if not source.share_prefill:
            return super().compress(press, ratio, source)
        scores = source.once(("scores", press.name), SharedScores) if self.scores_once else None
        return source.prefilled.compress(press.make(ratio), scores)
