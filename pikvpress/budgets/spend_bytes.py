"""A budget in bytes: how many tokens each head keeps, and in how many bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.budgets.hull import pieces_of_hull


def spend_bytes(errors: torch.Tensor, sizes: Sequence[int], budget: int) -> torch.Tensor:
    """Choose an option for every head such that their bytes fit a budget and the sum of their errors is small.

    This is a multiple-choice knapsack problem. Each head's errors, as a function of size, are replaced by their lower
    convex hull, and bytes go to the steepest segment of any head that still fits. If the last segment could be split,
    this would be optimal (https://doi.org/10.1287/opre.27.3.503); since it cannot, the sum exceeds the optimum by less
    than what that segment removes. The remaining bytes then go repeatedly to the change that removes most error per
    byte, on the hull or not.

    Parameters
    ----------
    errors : torch.Tensor
        Error of every option, shape (layers, heads, options). Heads with a NaN are ignored.
    sizes : sequence of int
        Size of every option in bytes.
    budget : int
        Bytes for all heads together.

    Returns
    -------
    torch.Tensor
        Index of the chosen option, int64, shape (layers, heads); -1 for ignored heads.

    Raises
    ------
    ValueError
        If the budget is smaller than the smallest options of all heads take; the message gives that size.
    """
    part = ~errors.isnan().any(dim=-1)
    rows = errors[part].double().cpu()
    size = torch.tensor(list(sizes))
    order = size.argsort(stable=True)
    least = int(size.min()) * len(rows)
    if budget < least:
        raise ValueError(f"a budget of {budget} bytes is below the smallest possible, {least}: lower the ratio")
    chosen = torch.tensor([int(order[row[order][size[order] == size[order[0]]].argmin()]) for row in rows])
    left = budget - int(size[chosen].sum())
    pieces = [
        (slope, head, last)
        for head, row in enumerate(rows)
        for slope, _, last in pieces_of_hull(size[order].tolist(), row[order].tolist())
        if slope > 0
    ]
    for _, head, last in sorted(pieces, key=lambda piece: -piece[0]):
        option = int(order[last])
        more = int(size[option] - size[chosen[head]])
        if more <= left:
            chosen[head], left = option, left - more
    _spend_rest(rows, size, chosen, left)
    result = torch.full(errors.shape[:2], -1)
    result[part.cpu()] = chosen
    return result


def _spend_rest(rows: torch.Tensor, size: torch.Tensor, chosen: torch.Tensor, left: int) -> None:
    """Repeatedly make the change that removes most error per byte, in place, as long as bytes are left."""
    while True:
        gain = rows.gather(1, chosen[:, None]) - rows
        extra = size[None] - size[chosen][:, None]
        worth = torch.where((gain > 0) & (extra <= left), gain / extra.clamp_min(1), 0)
        best = int(worth.argmax())
        if worth.flatten()[best] <= 0:
            return
        head, option = divmod(best, len(size))
        left -= int(extra[head, option])
        chosen[head] = option
