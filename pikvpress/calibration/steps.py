"""Progress of a calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import ClassVar

Report = Callable[[str, int, int], None]  # what is being done, how many steps are done, how many there are
Progress = Callable[[str], None]  # told of every step that was taken


class Steps:
    """Counts the work, so that a bar can show how much is left. A step is one visit of one context.

    Parameters
    ----------
    report : callable, optional
        Told what is being done, how much is done, and how much there is.
    """

    # How long they take, relative to each other.
    SIZES: ClassVar = {
        "collecting": 30,
        "fitting saliency": 2,
        "examining": 45,
        "comparing experts": 6,
        "fitting": 1,
        "measuring error curves": 4,
        "measuring codecs": 12,
        "fitting end to end": 4,
        "checking on held-out text": 9,
    }

    def __init__(self, report: Report | None):
        self._report = report
        self._planned: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def plan(self, steps: Mapping[str, int]) -> None:
        """Foresee how many steps of each kind there will be; collecting has been done."""
        self._planned = dict(steps)
        self._done["collecting"] = steps["collecting"]

    def collected(self, done: int, total: int) -> None:
        """Report contexts that have been measured, before the rest is foreseen."""
        if self._report is not None:
            self._report("collecting", done, total)

    def __call__(self, what: str) -> None:
        """Count a step."""
        self._done[what] += 1
        if self._report is not None:
            done = sum(min(count, self._planned[name]) * self.SIZES[name] for name, count in self._done.items())
            total = sum(count * self.SIZES[name] for name, count in self._planned.items())
            self._report(what, done, total)
