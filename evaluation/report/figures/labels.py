"""Placement of labels without overlaps."""

from __future__ import annotations

from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart, in the order of `wanted` and as close to it as possible.

    Overlapping labels form a block, centred on the mean of their wanted positions; blocks that touch are merged.
    Positions are outside `low` to `high` only if there is not enough room.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[tuple[float, list[int]]] = []
    for index in order:
        centre, members = _within(wanted[index], 1, gap, low, high), [index]
        while blocks and centre - (len(members) - 1) * gap / 2 < _top(blocks[-1], gap) + gap:
            _, before = blocks.pop()
            members = before + members
            mean = sum(wanted[member] for member in members) / len(members)
            centre = _within(mean, len(members), gap, low, high)
        blocks.append((centre, members))
    answer = [0.0] * len(wanted)
    for centre, members in blocks:
        for place, member in enumerate(members):
            answer[member] = centre + (place - (len(members) - 1) / 2) * gap
    return answer


def _top(block: tuple[float, list[int]], gap: float) -> float:
    return block[0] + (len(block[1]) - 1) * gap / 2


def _within(centre: float, count: int, gap: float, low: float, high: float) -> float:
    half = (count - 1) * gap / 2
    return max(low + half, min(high - half, centre))


def place(
    anchor: tuple[float, float],
    size: tuple[float, float],
    taken: Sequence[Rectangle],
    bounds: Rectangle,
    upwards: bool = True,
) -> Rectangle | None:
    """Return a free rectangle of the given size close to an anchor, or None if there is none.

    Parameters
    ----------
    anchor : tuple
        The point to label.
    size : tuple
        Width and height of the label.
    taken : sequence of tuple
        Rectangles (left, bottom, right, top) to keep clear of.
    bounds : tuple
        Rectangle to stay in.
    upwards : bool
        Whether to try above the anchor before below it.
    """
    x, y = anchor
    width, height = size
    above, below = (lambda away: y + away), (lambda away: y - height - away)
    first, second = (above, below) if upwards else (below, above)
    for away in (5.0, 10.0):
        corners = [
            (x - width - away, first(away / 3)),
            (x - width / 2, first(away)),
            (x - width - away, y - height / 2),
            (x + away, y - height / 2),
            (x + away, first(away / 3)),
            (x + away, second(away / 3)),
            (x - width / 2, second(away)),
            (x - width - away, second(away / 3)),
        ]
        for left, bottom in corners:
            spot = (left, bottom, left + width, bottom + height)
            inside = left >= bounds[0] and bottom >= bounds[1] and spot[2] <= bounds[2] and spot[3] <= bounds[3]
            if inside and not any(_overlap(spot, other) for other in taken):
                return spot
    return None


def _overlap(first: Rectangle, second: Rectangle) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
