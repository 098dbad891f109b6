"""Progress of a calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import ClassVar

Report = Callable[[str, int, int], None]  # current stage, number of completed steps, total number of steps
Progress = Callable[[str], None]  # called after every step with its kind


class Steps:
    """Count steps for a progress bar. A step is one visit of one context, or of one layer.

    Parameters
    ----------
    report : callable, optional
        Called with the current stage, the completed and the total amount of work.
    """

    # Relative durations of the steps.
    SIZES: ClassVar = {
        "collecting": 30,
        "fitting saliency": 2,
        "examining": 45,
        "comparing experts": 6,
        "fitting": 1,
        "measuring error curves": 4,
        "measuring codecs": 60,
        "fitting end to end": 4,
        "pruning": 6,
        "checking on held-out text": 9,
    }

    def __init__(self, report: Report | None):
        self._report = report
        self._planned: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def plan(self, steps: Mapping[str, int]) -> None:
        """Set the expected number of steps of each kind; collecting is complete."""
        self._planned = dict(steps)
        self._done["collecting"] = steps["collecting"]

    def collected(self, done: int, total: int) -> None:
        """Report measured contexts, before the remaining steps are known."""
        if self._report is not None:
            self._report("collecting", done, total)

    def __call__(self, what: str) -> None:
        """Count a step."""
        self._done[what] += 1
        if self._report is not None:
            done = sum(min(count, self._planned[name]) * self.SIZES[name] for name, count in self._done.items())
            self._report(what, done, self._total())

    def finish(self, what: str) -> None:
        """Report that everything is done, also steps that turned out not to be needed."""
        if self._report is not None:
            self._report(what, self._total(), self._total())

    def _total(self) -> int:
        return sum(count * self.SIZES[name] for name, count in self._planned.items())
