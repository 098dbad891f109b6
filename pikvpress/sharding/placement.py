"""Heads of unequal size on ranks: plain numbers in, plain numbers out.

Fitted budgets give some heads many times the bytes of others, and ranks wait for the one that holds most. So heads are
packed by the rules of DeepSeek's expert-parallel load balancer (EPLB, https://github.com/deepseek-ai/EPLB): the largest
is divided until there are enough pieces, and then every piece, the largest first, goes to the rank with least.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeadPiece:
    """A head, or one of the equal stretches into which its entries are divided.

    Attributes
    ----------
    head : int
        Index of the head.
    part, parts : int
        Which of how many stretches.
    size : float
        In the unit of the heads' sizes, such as bytes.
    """

    head: int
    part: int
    parts: int
    size: float


@dataclass(frozen=True)
class Placement:
    """Which rank holds which pieces.

    Attributes
    ----------
    ranks : tuple of tuple of HeadPiece
        Pieces of each rank.
    """

    ranks: tuple[tuple[HeadPiece, ...], ...]

    @property
    def loads(self) -> list[float]:
        """Size of what each rank holds."""
        return [math.fsum(piece.size for piece in pieces) for pieces in self.ranks]

    @property
    def imbalance(self) -> float:
        """The fullest rank relative to the mean; 1 is perfect balance, and also the value if all sizes are 0."""
        loads = self.loads
        return max(loads) * len(loads) / total if (total := math.fsum(loads)) else 1.0


def divided(sizes: Sequence[float], pieces: int | None = None) -> list[HeadPiece]:
    """Divide the largest heads into stretches until there are enough pieces.

    Each step divides the head with the largest stretches into one more, as EPLB adds replicas of the busiest expert.

    Parameters
    ----------
    sizes : sequence of float
        Size of each head, at least 0.
    pieces : int, optional
        Number of pieces, at least one for each head. By default one for each.

    Returns
    -------
    list of HeadPiece
        By head and part.

    Raises
    ------
    ValueError
        If there are no heads, a size is negative or not finite, or there would be fewer pieces than heads.
    """
    wrong = [size for size in sizes if not (math.isfinite(size) and size >= 0)]
    if not sizes or wrong:
        raise ValueError(f"sizes must be finite numbers of at least 0, one for each head, got {wrong or 'none'}")
    pieces = len(sizes) if pieces is None else pieces
    if pieces < len(sizes):
        raise ValueError(f"{len(sizes)} heads cannot be {pieces} pieces: ask for at least one piece for each head")
    parts = [1] * len(sizes)
    largest = [(-size, head) for head, size in enumerate(sizes)]
    heapq.heapify(largest)
    for _ in range(pieces - len(sizes)):
        _, head = largest[0]
        parts[head] += 1
        heapq.heapreplace(largest, (-sizes[head] / parts[head], head))
    return [
        HeadPiece(head, part, number, sizes[head] / number)
        for head, number in enumerate(parts)
        for part in range(number)
    ]


def longest_first(pieces: Sequence[HeadPiece], ranks: int, most: int | None = None) -> Placement:
    """Give each piece, the largest first, to the rank that holds least.

    The fullest rank then holds at most 4/3 - 1/(3 ranks) times as much as in the best placement (Graham 1969,
    https://doi.org/10.1137/0117039), unless `most` limits the choice.

    Parameters
    ----------
    pieces : sequence of HeadPiece
        See `divided`.
    ranks : int
        Number of ranks, at least 1.
    most : int, optional
        Number of pieces that a rank takes at most. By default unlimited.

    Raises
    ------
    ValueError
        If there are no ranks, or they cannot take all pieces.
    """
    _check_ranks(ranks)
    if most is not None and most * ranks < len(pieces):
        raise ValueError(f"{ranks} ranks with at most {most} pieces each cannot take {len(pieces)}: raise most")
    held: list[list[HeadPiece]] = [[] for _ in range(ranks)]
    emptiest = [(0.0, rank) for rank in range(ranks)]
    for piece in sorted(pieces, key=lambda piece: (-piece.size, piece.head, piece.part)):
        load, rank = heapq.heappop(emptiest)
        held[rank].append(piece)
        if most is None or len(held[rank]) < most:
            heapq.heappush(emptiest, (load + piece.size, rank))
    return _placed(held)


def round_robin(pieces: Sequence[HeadPiece], ranks: int) -> Placement:
    """Deal pieces to ranks in turn, whatever their sizes.

    Raises
    ------
    ValueError
        If there are no ranks.
    """
    _check_ranks(ranks)
    return _placed([pieces[rank::ranks] for rank in range(ranks)])


def _check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise ValueError(f"there must be at least 1 rank, got {ranks}")


def _placed(held: Sequence[Sequence[HeadPiece]]) -> Placement:
    return Placement(tuple(tuple(sorted(pieces, key=lambda piece: (piece.head, piece.part))) for pieces in held))
