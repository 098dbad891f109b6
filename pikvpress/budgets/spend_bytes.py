"""A budget in bytes: for every head, how many tokens and in how many bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.budgets.hull import pieces_of_hull


def spend_bytes(errors: torch.Tensor, sizes: Sequence[int], budget: int) -> torch.Tensor:
    """Choose an option for every head, so that their bytes fit a budget and their errors sum to little.

    This is a multiple-choice knapsack. Each head's errors, by size, are replaced by their lower convex hull, and bytes
    go to the steepest piece of any head while there are enough for it: with the last piece split in two this would be
    the optimum (https://doi.org/10.1287/opre.27.3.503), so without it the sum is above the least one by less than that
    piece removes. What is left over then goes, again and again, to the change that removes most per byte, on the hull
    or off it.

    Parameters
    ----------
    errors : torch.Tensor
        Of every option, shape (layers, heads, options). Heads with a NaN take no part.
    sizes : sequence of int
        Bytes of every option.
    budget : int
        Bytes for all heads together.

    Returns
    -------
    torch.Tensor
        The chosen option, int64, shape (layers, heads); -1 for heads that take no part.

    Raises
    ------
    ValueError
        If the budget is below the smallest option for every head: says what that is.
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
    """Change choices in place, again and again the one that removes most error per byte, while bytes are left."""
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
