"""Presses that compress while decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvpress import BasePress

from evaluation.compressors.full_cache import FullCache

if TYPE_CHECKING:
    from evaluation.presses.spec import PressSpec
    from evaluation.study import Study


@dataclass(frozen=True)
class WhileAnswering(FullCache):
    """The full context is read, and the cache is compressed while the answer is generated."""

    def validate(self, name: str, study: Study) -> None:
        """Reject studies without answers."""
        if any(chosen.benchmark.teacher_forced for chosen in study.benchmarks):
            raise ValueError(
                f"{name} compresses while answering, but the fidelity benchmark has no answers: omit one of them"
            )

    def while_answering(self, press: PressSpec, ratio: float | None) -> BasePress:
        """Return the press."""
        made = press.make(ratio)
        assert made is not None
        return made
