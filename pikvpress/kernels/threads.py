"""Compiled loops on several threads: as many as torch has."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

ROWS = 1024  # of a piece of work: some hundred microseconds where rows are packed


class Crew:
    """Threads that take pieces of work in turn; the caller is one of them.

    The work must release Python's lock. Several threads may use a crew at the same time.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start threads anew when they are next needed: a forked process has none of its parent's."""
        self._lock = threading.Lock()
        self._helpers: ThreadPoolExecutor | None = None
        self._number = 0

    def run(self, work: Callable[[int], object], pieces: int, threads: int | None = None) -> None:
        """Call ``work(piece)`` for each piece below a number, on up to so many threads; by default, torch's.

        An error in one of them is raised when all have ended.
        """
        waiting = itertools.count()  # taking the next number is one step, so that no two threads take the same

        def take() -> None:
            while (piece := next(waiting)) < pieces:
                work(piece)

        number = min(torch.get_num_threads() if threads is None else threads, pieces) - 1
        helpers = [self._started(number).submit(take) for _ in range(number)]
        try:
            take()
        finally:
            # Nothing is left for those that have not begun, if others keep the threads busy.
            begun = [helper for helper in helpers if not helper.cancel()]
            errors = [helper.exception() for helper in begun]
        for error in errors:
            if error is not None:
                raise error

    def run_rows(self, work: Callable[[int, int], object], rows: int) -> None:
        """Call ``work(first, last)`` for stretches of up to `ROWS` rows that follow each other, as `run` does."""
        self.run(lambda piece: work(piece * ROWS, min(rows, (piece + 1) * ROWS)), -(-rows // ROWS))

    def _started(self, number: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._helpers is None or self._number < number:
                self._helpers, self._number = ThreadPoolExecutor(number, "pikvpress"), number
            return self._helpers


CREW = Crew()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=CREW.forget)
