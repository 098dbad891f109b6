"""The definition of attention over heads of different length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.kernels.ragged_attention.layout import Rows


def attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to entries of any number a head, and to recent ones that all heads have.

    output = softmax(scaling · q·k) v over all of them, the softmax in float32.

    Parameters
    ----------
    query : torch.Tensor
        Shape (B, Q, n, D); Q a multiple of the H KV heads, in whose order groups of queries stand.
    held : sequence of (Rows, Rows)
        Keys and values that every query sees.
    keys, values : torch.Tensor
        Recent ones, shape (B, H, R, D).
    hidden : torch.Tensor
        Which of the recent ones a query does not see, bool, shape (B or 1, 1 or Q, n, R).
    scaling : float
        Factor on the logits.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Output, shape (B, Q, n, D), and the log-sum-exp of the logits, float32 (float64 of float64), shape (B, Q, n):
        parts of a cache that were attended to apart can be merged by it.
    """
    batch, heads, _, head_dim = keys.shape
    grouped = query.unflatten(1, (heads, -1))  # (B, H, G, n, D)
    shape = grouped.shape[2:4]
    rows = grouped.flatten(2, 3)
    wide = torch.promote_types(query.dtype, torch.float32)
    recent = rows @ keys.transpose(2, 3) * scaling
    masked = hidden.expand(batch, query.shape[1], *hidden.shape[2:]).unflatten(1, (heads, -1)).flatten(2, 3)
    recent = recent.masked_fill(masked, -torch.inf)
    outputs, sums = [], []
    for index in range(batch * heads):
        row, head = divmod(index, heads)
        parts = [(k.part(index), v.part(index)) for k, v in held]
        logits = [rows[row, head] @ part.T * scaling for part, _ in parts]
        together = torch.cat([*logits, recent[row, head]], dim=-1).to(wide)
        sums.append(together.logsumexp(dim=-1))
        weights = together.softmax(dim=-1).to(query.dtype).split([*(len(part) for part, _ in parts), keys.shape[2]], -1)
        output = weights[-1] @ values[row, head]
        for weight, (_, part) in zip(weights, parts, strict=False):
            output = output + weight @ part
        outputs.append(output)
    output = torch.stack(outputs).view(batch, heads, *shape, head_dim).flatten(1, 2)
    return output, torch.stack(sums).view(batch, heads, *shape).flatten(1, 2)
