"""Measurement of time on CPU or CUDA, without synchronising with the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Add up the time of several spans; on CUDA with events that are read only when `seconds` is accessed."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the seconds so far, since device events cannot be copied."""
        return {"_elapsed": self.seconds, "_spans": []}

    @contextmanager
    def span(self, device: torch.device) -> Iterator[None]:
        """Measure the time of the ``with`` block."""
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)  # a model may be on another device than the current one
            first.record(stream)
            try:
                yield
            finally:
                last.record(stream)
                self._spans.append((first, last))
        else:
            began = time.perf_counter()
            try:
                yield
            finally:
                self._elapsed += time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Total seconds of all spans so far."""
        for first, last in self._spans:
            last.synchronize()
            self._elapsed += first.elapsed_time(last) / 1000
        self._spans.clear()
        return self._elapsed
