"""Presses that are told what follows."""

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
    """The press is told what will be read after the context, and compresses for that alone."""

    told: ClassVar[bool] = True

    def validate(self, name: str, study: Study) -> None:
        """Refuse studies in which what will be read is not known."""
        if not all(chosen.benchmark.teacher_forced for chosen in study.benchmarks):
            raise ValueError(f"{name} must be told what will be read, which only fidelity says: leave it out")

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context as the oracle leaves it for a sample; oracles with the same experts foresee it once."""
        assert sample is not None
        made: Any = press.make(ratio)
        future = [*sample.question, *sample.answer]
        seed = zlib.crc32(f"{source.seed}/{sample.name}".encode())
        seen = source.latest(
            (sample.name, made.experts),
            lambda: foresee(source.model, source.context, future, made.experts, source.ratios, seed),
        )
        return made.compress_knowing(seen)
