"""The lower convex hull of an error curve: where more budget removes most error."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def pieces_of_hull(sizes: Sequence[float], errors: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return the pieces of a curve's lower convex hull, the steepest first.

    Parameters
    ----------
    sizes : sequence of float
        Ascending.
    errors : sequence of float
        At each size.

    Returns
    -------
    list of (float, int, int)
        Error removed per unit of size, and between which points. The last piece is flat where more removes nothing.
    """
    least = list(itertools.accumulate(errors, min))  # more does not have to be worse: it need not be used
    hull: list[int] = []
    for point in range(len(sizes)):
        if hull and sizes[point] == sizes[hull[-1]]:
            if least[point] == least[hull[-1]]:
                continue
            hull.pop()
        while len(hull) > 1 and _slope(sizes, least, hull[-2], hull[-1]) <= _slope(sizes, least, hull[-2], point):
            hull.pop()
        hull.append(point)
    return [(_slope(sizes, least, first, last), first, last) for first, last in itertools.pairwise(hull)]


def _slope(sizes: Sequence[float], errors: Sequence[float], first: int, last: int) -> float:
    return (errors[first] - errors[last]) / (sizes[last] - sizes[first])
