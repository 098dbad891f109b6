"""Heads on ranks that are not equally fast: what counts is when the slowest one has read what it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pikvpress.sharding.placement import HeadPiece, Placement


@dataclass(frozen=True)
class RankSpeed:
    """How fast a rank is: with s bytes it is done after hops × seconds_per_hop + s / bandwidth.

    That is the model of Hockney (https://doi.org/10.1016/S0167-8191(06)80021-9), with a latency for each hop of the
    answer. A rank that holds nothing is not asked.

    Parameters
    ----------
    bandwidth : float
        Bytes that it reads per second, more than 0.
    hops : int, default=0
        Links between it and the rank that needs its answer.
    seconds_per_hop : float, default=0.0
        Latency of a link.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    bandwidth: float
    hops: int = 0
    seconds_per_hop: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ValueError(f"bandwidth must be a finite number of bytes a second above 0, got {self.bandwidth}")
        if self.hops < 0 or not (math.isfinite(self.seconds_per_hop) and self.seconds_per_hop >= 0):
            raise ValueError(
                f"hops and seconds_per_hop must be at least 0 and finite, got {self.hops} and {self.seconds_per_hop}"
            )

    @property
    def latency(self) -> float:
        """Seconds until an answer without work would arrive."""
        return self.hops * self.seconds_per_hop

    def seconds(self, nbytes: float) -> float:
        """Return the seconds after which the rank has answered, if it holds so many bytes."""
        return self.latency + nbytes / self.bandwidth if nbytes else 0.0


def slowest(placement: Placement, speeds: Sequence[RankSpeed]) -> float:
    """Return the seconds that the slowest rank of a placement by bytes takes."""
    return max(speed.seconds(load) for speed, load in zip(speeds, placement.loads, strict=True))


def earliest_first(pieces: Sequence[HeadPiece], speeds: Sequence[RankSpeed]) -> Placement:
    """Give each piece, the largest first, to the rank that would be done with it earliest.

    With equal ranks this is `longest_first`. Without latencies, the slowest rank takes at most 2 m / (m + 1) times as
    long as in the best placement on m ranks (Gonzalez, Ibarra and Sahni 1977, https://doi.org/10.1137/0206013).

    Parameters
    ----------
    pieces : sequence of HeadPiece
        See `divided`; sizes in bytes.
    speeds : sequence of RankSpeed
        One for each rank.

    Raises
    ------
    ValueError
        If there are no ranks.
    """
    if not speeds:
        raise ValueError("there must be at least 1 rank, got no speeds")
    held: list[list[HeadPiece]] = [[] for _ in speeds]
    loads = [0.0] * len(speeds)
    for piece in sorted(pieces, key=lambda piece: (-piece.size, piece.head, piece.part)):
        done = [
            (speed.seconds(load + piece.size), rank)
            for rank, (speed, load) in enumerate(zip(speeds, loads, strict=True))
        ]
        _, rank = min(done)
        held[rank].append(piece)
        loads[rank] += piece.size
    return Placement(tuple(tuple(sorted(mine, key=lambda piece: (piece.head, piece.part))) for mine in held))


def least_seconds(nbytes: float, speeds: Sequence[RankSpeed]) -> float:
    """Return the time below which no placement can be: that of bytes divided as finely as one likes.

    The ranks with a latency below the result are all done at once: Σ (t - latency) × bandwidth over them is `nbytes`.

    Parameters
    ----------
    nbytes : float
        Bytes of all heads.
    speeds : sequence of RankSpeed
        At least one.
    """
    if not nbytes:
        return 0.0
    quickest, bandwidth, credit, found = sorted(speeds, key=lambda speed: speed.latency), 0.0, 0.0, math.inf
    for speed in quickest:
        if found <= speed.latency:
            break
        bandwidth += speed.bandwidth
        credit += speed.bandwidth * speed.latency
        found = (nbytes + credit) / bandwidth
    return found
