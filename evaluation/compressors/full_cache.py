"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.compressed import CompressedContext
from evaluation.compressors.compressor import Compressor

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.units import Sample


@dataclass(frozen=True)
class FullCache(Compressor):
    """Nothing is removed."""

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the full cache."""
        return source.full
