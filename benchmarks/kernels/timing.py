"""Timing of calls: inputs alternate, so that none is in a hardware cache; the result is the median and its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.kernels.operation import Inputs

PAST_THE_CACHE = 256 * 2**20  # bytes of alternating inputs on a GPU: several times its L2 cache
CYCLES, LONGEST = 2e9, 0.5  # of a GPU a second, and seconds that it waits at most: some calls wait for it themselves


class Timing(NamedTuple):
    """Milliseconds of a call, and its memory in addition to the inputs.

    Attributes
    ----------
    median, low, high : float
        Median, 20th and 80th percentile of the calls.
    peak_bytes : int or None
        Peak bytes allocated by a call, including its result; None on a CPU.
    host : float or None
        Milliseconds until a call returns, which bounds how fast it can be called however fast the GPU is; None on a
        CPU.
    """

    median: float
    low: float
    high: float
    peak_bytes: int | None
    host: float | None = None


def time_calls(function: Callable[..., Any], inputs: Sequence[Inputs], calls: int, device: str) -> Timing:
    """Time calls after warming up.

    On a GPU all calls are launched while it waits, so that it is timed, and not Python.

    Parameters
    ----------
    function : callable
        Called with one of the inputs as keyword arguments.
    inputs : sequence of Inputs
        Inputs, which are used in turn.
    calls : int
        Number of timed calls.
    device : str
        "cuda" or "cpu".
    """
    for number in range(2):
        function(**inputs[number % len(inputs)])
    if device != "cuda":
        taken = []
        for number in range(calls):
            began = time.perf_counter()
            function(**inputs[number % len(inputs)])
            taken.append(1000 * (time.perf_counter() - began))
        return _timing(taken, None)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    began = time.perf_counter()
    function(**inputs[0])
    host = time.perf_counter() - began
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    torch.cuda._sleep(int(CYCLES * min(calls * host, LONGEST)))
    for number, (start, end) in enumerate(marks):
        start.record()
        function(**inputs[number % len(inputs)])
        end.record()
    torch.cuda.synchronize()
    return _timing([start.elapsed_time(end) for start, end in marks], peak)._replace(host=1000 * host)


def time_in_turn(ways: Mapping[str, Callable[..., Any]], inputs: Inputs, calls: int) -> dict[str, Timing]:
    """Time calls on a CPU, of each way in every round, after a round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(calls + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way(**inputs)
            if number:
                taken[name].append(1000 * (time.perf_counter() - began))
    return {name: _timing(of_way, None) for name, of_way in taken.items()}


def copies_needed(inputs: Inputs, device: str) -> int:
    """Return how many inputs must alternate so that a call's inputs are not in a hardware cache."""
    if device != "cuda":
        return 1
    size = sum(getattr(value, "nbytes", 0) for value in inputs.values())
    return max(1, min(64, -(-PAST_THE_CACHE // max(1, size))))


def _timing(taken: Sequence[float], peak: int | None) -> Timing:
    ordered = sorted(taken)
    place = (len(ordered) - 1) / 5
    return Timing(statistics.median(ordered), ordered[round(place)], ordered[round(4 * place)], peak)
