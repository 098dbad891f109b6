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
    """Makes rows of one task with a haystack of any size.

    Parameters
    ----------
    task : str
        Name of the task.
    length : int
        Tokens that a row may take; some tasks change with it.
    """

    task: str
    length: int

    @abstractmethod
    def least(self, index: int) -> int:
        """Return the fewest units of haystack with which sample `index` is still a sensible question."""

    @abstractmethod
    def row(self, rng: random.Random, index: int, units: int) -> Row:
        """Return sample `index` with a haystack of so many units.

        A generator in the same state gives rows that differ in little but their size, so that size grows with `units`.
        """

    def rng(self, seed: int, index: int) -> random.Random:
        """Return the source of all that is random in sample `index`, the same in every process."""
        return random.Random(f"{seed}/{self.length}/{self.task}/{index}")


def fitted_rows(generator: Generator, request: Request) -> list[Row]:
    """Return the request's number of samples, each with the largest haystack that fits.

    Raises
    ------
    ValueError
        If the length is too short for a sample; the message gives the least length for all of them.
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
                f"give a length of at least {least_length(generator, request)}, or leave the task out"
            )
        rows.append(made[units])
    return rows


def largest(tokens: Callable[[int], int], least: int, room: int) -> int | None:
    """Return the largest number of units, at least `least`, that takes no more tokens than there is room for.

    Tokens grow almost evenly with units, so that each look goes where the average growth says; looks that stay on one
    side of the limit go further every time. That takes about 6 looks where halving takes 17, and at 128k tokens a look
    is slow.

    Parameters
    ----------
    tokens : callable
        Tokens that so many units take.
    least : int
        Fewest units.
    room : int
        Most tokens.

    Returns
    -------
    int or None
        None if not even `least` units fit.
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
    """Return a length at which every sample of the request fits, found by growing one that is too short."""
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
