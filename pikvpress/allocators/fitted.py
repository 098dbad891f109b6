"""Budgets from error curves: tokens go where they remove most error."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch


def fitted_counts(curves: torch.Tensor, keep_shares: Sequence[float], num_keys: int, num_kept: int) -> torch.Tensor:
    """Share ``num_kept`` tokens a head out anew over all layers and heads.

    Each head's error, as a function of the tokens that it keeps, is replaced by its lower convex hull; then tokens are
    given to the steepest piece of any head until none are left. On convex curves this is the least total error.

    Parameters
    ----------
    curves : torch.Tensor
        Error at each share of the keys kept, shape (layers, heads, len(keep_shares)). Rows that are NaN take no part.
    keep_shares : sequence of float
        Shares of the keys, descending from 1.
    num_keys : int
        Keys of a head.
    num_kept : int
        What each head would keep at equal budgets.

    Returns
    -------
    torch.Tensor
        Tokens that each head keeps, int64, shape (layers, heads). The sum is that of equal budgets; no head has less
        than one token or less than the smallest share, unless equal budgets have. Heads that take no part have 0.
    """
    part = ~curves.isnan().any(dim=-1)
    heads = int(part.sum())
    ascending = list(reversed([round(share * num_keys) for share in keep_shares]))
    fewest = max(1, min(ascending[0], num_kept))
    points = [fewest, *(point for point in ascending[1:] if point > fewest)]
    errors = curves[part].double().flip(-1)[:, -len(points) :].cpu()
    pieces = [piece for head, row in enumerate(errors.tolist()) for piece in _pieces(head, points, row)]
    pieces.sort(key=lambda piece: -piece[0])
    counts, left = [fewest] * heads, heads * (num_kept - fewest)
    for _, head, tokens in pieces:
        given = min(tokens, left)
        counts[head] += given
        left -= given
    result = torch.zeros(curves.shape[:2], dtype=torch.int64)
    result[part.cpu()] = torch.tensor(counts, dtype=torch.int64)
    return result


def _pieces(head: int, points: Sequence[int], errors: Sequence[float]) -> list[tuple[float, int, int]]:
    """Return the pieces of a curve's lower convex hull: error removed per token, head, tokens."""
    hull: list[tuple[int, float]] = []
    least = float("inf")
    for point, error in zip(points, errors, strict=True):
        least = min(least, error)  # more tokens do not have to be worse: they need not be used
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], (point, least)):
            hull.pop()
        hull.append((point, least))
    return [(_slope(first, last), head, last[0] - first[0]) for first, last in itertools.pairwise(hull)]


def _slope(first: tuple[int, float], last: tuple[int, float]) -> float:
    return (first[1] - last[1]) / (last[0] - first[0])
