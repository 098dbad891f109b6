"""Heads on ranks of several nodes, so that heads which belong together are on one node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pikvpress.sharding.placement import HeadPiece, Placement, divided, longest_first


def hierarchical(
    sizes: Sequence[float], groups: int, nodes: int, ranks: int, extra: int = 0, most: int | None = None
) -> Placement:
    """Pack groups of heads onto nodes, then divide and pack the heads of each node onto its ranks.

    This is the hierarchical rule of DeepSeek's EPLB (https://github.com/deepseek-ai/EPLB), which keeps the messages of
    a group within a node, where they are fast. EPLB gives every node the same number of groups (`most`), and every rank
    the same number of pieces, since its ranks have slots; bytes have none, so that by default only sizes count.

    Parameters
    ----------
    sizes : sequence of float
        Size of each head, at least 0, such as its bytes.
    groups : int
        Number of groups, each of equally many consecutive heads.
    nodes : int
        Number of nodes.
    ranks : int
        Number of ranks of all nodes; every node has equally many consecutive ones.
    extra : int, default=0
        Pieces of each node, beside one for each of its heads: see `divided`.
    most : int, optional
        Groups that a node takes at most. By default any number.

    Returns
    -------
    Placement
        By rank, those of the first node first.

    Raises
    ------
    ValueError
        If groups do not divide the heads or nodes the ranks, nodes cannot take all groups, a number is out of range, or
        a size is not one.
    """
    for name, number, whole, of in (("groups", groups, len(sizes), "heads"), ("nodes", nodes, ranks, "ranks")):
        if number < 1 or whole % number or whole == 0:
            raise ValueError(f"{whole} {of} cannot be {number} equal {name}: choose a number that divides them")
    if extra < 0:
        raise ValueError(f"extra is a number of pieces and must be at least 0, got {extra}")
    number, held = len(sizes) // groups, list[tuple[HeadPiece, ...]]()
    wholes = divided(sizes)  # which checks them
    totals = [
        math.fsum(piece.size for piece in wholes[first : first + number]) for first in range(0, len(sizes), number)
    ]
    for of_node in longest_first(divided(totals), nodes, most).ranks:
        heads = [head for group in of_node for head in range(group.head * number, (group.head + 1) * number)]
        pieces = divided([sizes[head] for head in heads], len(heads) + extra) if heads else []
        named = [replace(piece, head=heads[piece.head]) for piece in pieces]
        held += longest_first(named, ranks // nodes).ranks
    return Placement(tuple(held))
