"""The lower convex hull of an error curve, which shows where additional budget reduces the error most."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence


def pieces_of_hull(sizes: Sequence[float], errors: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return the segments of a curve's lower convex hull, the steepest first.

    Parameters
    ----------
    sizes : sequence of float
        Sizes in ascending order.
    errors : sequence of float
        Error at each size.

    Returns
    -------
    list of (float, int, int)
        Error reduction per unit of size, and the indices of the two end points. The last segment is flat where more
        size does not reduce the error.
    """
    least = list(itertools.accumulate(errors, min))  # a larger size is never worse: it need not be used in full
    # Only points that are better than all smaller ones can be on the hull, apart from its flat end: of hundreds, few.
    better = [point for point in range(len(sizes)) if point == 0 or least[point] < least[point - 1]]
    hull: list[int] = []
    for point in sorted({*better, bisect_left(sizes, sizes[-1])}):
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
