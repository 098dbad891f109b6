"""Presses that know the future text."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evaluation.compressed import CompressedContext
from evaluation.compressors.compressor import Compressor
from evaluation.oracle import foresee

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.study import Study
    from evaluation.units import Sample


@dataclass(frozen=True)
class Oracle(Compressor):
    """The press receives the text after the context, and compresses for this text only."""

    told: ClassVar[bool] = True

    def validate(self, name: str, study: Study) -> None:
        """Reject studies in which the future text is not known."""
        if not all(chosen.benchmark.teacher_forced for chosen in study.benchmarks):
            raise ValueError(f"{name} needs the future text, which only fidelity provides: omit it")

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the oracle for a sample; oracles with the same experts share the reading."""
        assert sample is not None
        made: Any = press.make(ratio)
        future = [*sample.question, *sample.answer]
        seed = zlib.crc32(f"{source.seed}/{sample.name}".encode())
        seen = source.latest(
            (sample.name, made.experts),
            lambda: foresee(source.model, source.context, future, made.experts, source.ratios, seed),
        )
        return made.compress_knowing(seen)
