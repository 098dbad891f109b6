"""Presses that keep a cache within a ceiling while a continuation is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from evaluation.compressors.full_cache import FullCache
from evaluation.held import HeldPress

if TYPE_CHECKING:
    from evaluation.study import Study


@dataclass(frozen=True)
class WhileReading(FullCache):
    """The press acts along a continuation, see `evaluation.continuing`; there is no compressed context."""

    goes_on: ClassVar[bool] = True

    def validate(self, name: str, study: Study) -> None:
        """Reject studies without continuations, and budgets below the smallest cache."""
        for chosen in study.benchmarks:
            if not chosen.benchmark.goes_on:
                raise ValueError(
                    f"{name} compresses while a continuation is read, and {chosen.name} has none: use the benchmark "
                    "'continuation', or omit it"
                )
            for length in chosen.lengths:
                for ratio in study.ratios:
                    self._check_room(name, study, length, ratio)

    def _check_room(self, name: str, study: Study, length: int, ratio: float) -> None:
        press = next(press for press in study.presses if press.name == name).make(ratio)
        assert isinstance(press, HeldPress)
        if int(length * (1 - ratio)) < press.smallest:
            raise ValueError(
                f"ratio {ratio:g} leaves {int(length * (1 - ratio))} of {length} tokens, and {name} needs room for "
                f"{press.smallest}: use longer texts or a lower ratio"
            )
