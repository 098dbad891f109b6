"""What one more token is worth to a head, by its error curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pikvpress.budgets.hull import pieces_of_hull


def marginal_errors(curves: torch.Tensor, keep_shares: Sequence[float], num_keys: int) -> torch.Tensor:
    """Return the error that each token removes, from the first that a head keeps to the last.

    The slope of each curve's lower convex hull: that of a piece in its middle, linear in between, twice the steepest
    for the very first token and 0 for the last. Handing tokens to heads by it, the largest first, is handing them out
    by the curves.

    Parameters
    ----------
    curves : torch.Tensor
        Error at each share of the keys kept, shape (heads, len(keep_shares)).
    keep_shares : sequence of float
        Shares of the keys, descending from 1.
    num_keys : int
        Keys of a head.

    Returns
    -------
    torch.Tensor
        In the curves' unit a token, float32, shape (heads, num_keys), descending, on the curves' device.
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
