"""Measurement of time on CPU or CUDA; on one device without synchronising with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
    def span(self, *devices: torch.device) -> Iterator[None]:
        """Measure the time of the ``with`` block on the devices that work in it; several are waited for."""
        if len(devices) == 1 and devices[0].type == "cuda":
            stream = torch.cuda.current_stream(devices[0])
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record(stream)
            try:
                yield
            finally:
                last.record(stream)
                self._spans.append((first, last))
        else:
            began = _now(devices)
            try:
                yield
            finally:
                self._elapsed += _now(devices) - began

    @property
    def seconds(self) -> float:
        """Total seconds of all spans so far."""
        for first, last in self._spans:
            last.synchronize()
            self._elapsed += first.elapsed_time(last) / 1000
        self._spans.clear()
        return self._elapsed


def _now(devices: Sequence[torch.device]) -> float:
    """Return the host's clock once GPUs have done what they were given: events of two cannot be subtracted."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter()
