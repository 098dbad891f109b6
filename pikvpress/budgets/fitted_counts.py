"""Budgets from error curves: tokens go where they reduce the error most."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.budgets.hull import pieces_of_hull


def fitted_counts(curves: torch.Tensor, keep_shares: Sequence[float], num_keys: int, num_kept: int) -> torch.Tensor:
    """Redistribute ``num_kept`` tokens per head over all layers and heads.

    Each head's error, as a function of the number of tokens it keeps, is replaced by its lower convex hull. Tokens are
    then given to the steepest remaining segment of any head until none are left. For convex curves this minimises the
    total error.

    Parameters
    ----------
    curves : torch.Tensor
        Error at each share of the keys kept, shape (layers, heads, len(keep_shares)). Rows that are NaN are ignored.
    keep_shares : sequence of float
        Shares of the keys, descending from 1.
    num_keys : int
        Number of keys per head.
    num_kept : int
        Number of tokens that each head would keep at equal budgets.

    Returns
    -------
    torch.Tensor
        Tokens that each head keeps, int64, shape (layers, heads). The sum is that of equal budgets. No head has fewer
        than one token or less than the smallest share, unless equal budgets do. Ignored heads have 0.
    """
    part = ~curves.isnan().any(dim=-1)
    heads = int(part.sum())
    ascending = list(reversed([round(share * num_keys) for share in keep_shares]))
    fewest = max(1, min(ascending[0], num_kept))
    points = [fewest, *(point for point in ascending[1:] if point > fewest)]
    errors = curves[part].double().flip(-1)[:, -len(points) :].cpu()
    pieces = [
        (slope, head, points[last] - points[first])
        for head, row in enumerate(errors.tolist())
        for slope, first, last in pieces_of_hull(points, row)
    ]
    counts, left = [fewest] * heads, heads * (num_kept - fewest)
    for _, head, tokens in sorted(pieces, key=lambda piece: -piece[0]):
        given = min(tokens, left)
        counts[head] += given
        left -= given
    result = torch.zeros(curves.shape[:2], dtype=torch.int64)
    result[part.cpu()] = torch.tensor(counts, dtype=torch.int64)
    return result
