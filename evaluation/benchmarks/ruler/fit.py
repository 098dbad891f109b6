"""The largest haystack that fits a length."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from evaluation.benchmarks.benchmark import Request
from evaluation.prompts import total_tokens
from evaluation.rows import Row


@dataclass(frozen=True)
class Generator(ABC):
    """Generator of rows of one task with a haystack of any size.

    Parameters
    ----------
    task : str
        Name of the task.
    length : int
        Maximum number of tokens of a row; some tasks depend on it.
    """

    task: str
    length: int

    @abstractmethod
    def least(self, index: int) -> int:
        """Return the minimum number of haystack units for which sample `index` is a sensible question."""

    @abstractmethod
    def row(self, rng: random.Random, index: int, units: int) -> Row:
        """Return sample `index` with a haystack of `units` units.

        With the same random state, rows differ in little except their size, so that the size grows with `units`.
        """

    def rng(self, seed: int, index: int) -> random.Random:
        """Return the random generator of sample `index`, the same in every process."""
        return random.Random(f"{seed}/{self.length}/{self.task}/{index}")


def fitted_rows(generator: Generator, request: Request) -> list[Row]:
    """Return the requested number of samples, each with the largest haystack that fits.

    Raises
    ------
    ValueError
        If the length is too short for a sample; the message gives the minimum length for all samples.
    """
    tokenizer, seed = request.tokenizer, request.seed
    rows = []
    for index in range(request.samples):
        made: dict[int, Row] = {}

        def tokens(units: int, index: int = index, made: dict[int, Row] = made) -> int:
            made[units] = generator.row(generator.rng(seed, index), index, units)
            return total_tokens(tokenizer, made[units])

        units = largest(tokens, generator.least(index), generator.length)
        if units is None:
            raise ValueError(
                f"{generator.length} tokens are too short for {request.samples} samples of task {generator.task!r}: "
                f"use a length of at least {least_length(generator, request)}, or omit the task"
            )
        rows.append(made[units])
    return rows


def largest(tokens: Callable[[int], int], least: int, room: int) -> int | None:
    """Return the largest number of units, at least `least`, that fits into the available tokens.

    Tokens grow almost linearly with units, so each evaluation interpolates; repeated evaluations on the same side of
    the limit take larger steps. This needs about 6 evaluations where bisection needs 17, and at 128k tokens an
    evaluation is slow.

    Parameters
    ----------
    tokens : callable
        Number of tokens as a function of the number of units.
    least : int
        Minimum number of units.
    room : int
        Maximum number of tokens.

    Returns
    -------
    int or None
        None if even `least` units do not fit.
    """
    first = free = room - tokens(least)
    if free < 0:
        return None
    fits, exceeds, guess, further = least, None, least, 0
    growth = (room - first) / least
    while exceeds is None or exceeds - fits > 1:
        step = max(1, int(abs(free) / growth)) + further
        fitted = free >= 0
        guess += step if fitted else -step
        if exceeds is not None:
            guess = min(max(guess, fits + 1), exceeds - 1)
        free = room - tokens(guess)
        if free >= 0:
            fits = guess
        else:
            exceeds = guess
        growth = max((first - free) / (guess - least), 1e-3)
        further = 2 * further + 1 if fitted == (free >= 0) else 0
    return fits


def least_length(generator: Generator, request: Request) -> int:
    """Return a length at which every sample of the request fits, found by increasing one that is too short."""
    length = generator.length
    while True:
        at = replace(generator, length=length)
        needed = max(
            total_tokens(request.tokenizer, at.row(at.rng(request.seed, index), index, at.least(index)))
            for index in range(request.samples)
        )
        if needed <= length:
            return length
        length = needed
