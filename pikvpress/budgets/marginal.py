"""The value of one more token to a head, according to its error curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pikvpress.budgets.hull import pieces_of_hull


def marginal_errors(curves: torch.Tensor, keep_shares: Sequence[float], num_keys: int) -> torch.Tensor:
    """Return how much each token reduces the error, from the first token that a head keeps to the last.

    This is the slope of each curve's lower convex hull: the slope of each segment at its centre, linear in between,
    twice the steepest slope for the first token and 0 for the last. Giving tokens to heads in descending order of this
    value is equivalent to dividing them by the curves.

    Parameters
    ----------
    curves : torch.Tensor
        Error at each share of the keys kept, shape (heads, len(keep_shares)).
    keep_shares : sequence of float
        Shares of the keys, descending from 1.
    num_keys : int
        Number of keys per head.

    Returns
    -------
    torch.Tensor
        In the unit of the curves per token, float32, shape (heads, num_keys), descending, on the curves' device.
    """
    points = [share * num_keys for share in reversed(keep_shares)]
    places = np.arange(num_keys) + 0.5
    rows = []
    for errors in curves.double().flip(-1).tolist():
        pieces = pieces_of_hull(points, errors)
        middles = [(points[first] + points[last]) / 2 for _, first, last in pieces]
        slopes = [slope for slope, _, _ in pieces]
        rows.append(np.interp(places, [0.0, *middles, num_keys], [2 * slopes[0], *slopes, 0.0]))
    return torch.tensor(np.stack(rows), dtype=torch.float32, device=curves.device)
