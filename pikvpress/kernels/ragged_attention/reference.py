"""The definition of attention over heads of different length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from pikvpress.kernels.ragged_attention.layout import Rows
from pikvpress.kernels.rotation import rotation

NUMBERS = 2**22  # logits held at a time, if one head has not more


class Part(NamedTuple):
    """Keys or values of one head, shape (entries, head_dim), and whether they are rotated."""

    numbers: torch.Tensor
    is_rotated: bool


Parts = Sequence[Sequence[tuple[Part, Part]]]


def attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to entries of any number a head, and to recent ones that all heads have.

    output = softmax(scaling · q·k) v over all of them, the softmax in float32. What is stored rotated is never turned
    back entry by entry: queries are turned once, and so is the sum of such values.

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
    output, log_sums, _ = _attend(query, held, keys, values, hidden, scaling, sums=False)
    return output, log_sums


@torch.no_grad()
def attend_capped(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
    cap: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as `attend` does, to logits l that are bounded as in Gemma 2: cap · tanh(l / cap)."""
    output, log_sums, _ = _attend(query, held, keys, values, hidden, scaling, sums=False, cap=cap)
    return output, log_sums


@torch.no_grad()
def attend_and_sum(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend as `attend` does, and return the attention that entries receive as well.

    Returns
    -------
    (torch.Tensor, torch.Tensor, torch.Tensor)
        Output and log-sum-exp as `attend` returns them, and the sum over all n queries of the weights of each entry,
        averaged over the query heads of its KV head: float32 (float64 of float64), shape (B, H, most + R). The first
        places are for held entries, in the order of `held`; a head with fewer than `most` has zeros after its own.
    """
    output, log_sums, received = _attend(query, held, keys, values, hidden, scaling, sums=True)
    assert received is not None
    return output, log_sums, received


def _attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
    sums: bool,
    cap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    batch, heads, recent, _ = keys.shape
    grouped = query.unflatten(1, (heads, -1))  # (B, H, G, n, D)
    shape = grouped.shape[2:4]
    rows, keys, values = (states.flatten(0, 1) for states in (grouped.flatten(2, 3), keys, values))
    masked = hidden.expand(batch, query.shape[1], *hidden.shape[2:]).unflatten(1, (heads, -1)).flatten(2, 3)
    masked = masked.flatten(0, 1)
    parts = [[(_of(k, index), _of(v, index)) for k, v in held] for index in range(batch * heads)]
    most = max((sum(len(k.numbers) for k, _ in of_head) for of_head in parts), default=0)
    step = max(1, NUMBERS // max(1, rows.shape[1] * (most + recent)))
    found = [
        _of_heads(rows[these], parts[these], most, keys[these], values[these], masked[these], scaling, sums, cap)
        for these in (slice(first, first + step) for first in range(0, batch * heads, step))
    ]
    sides = ([of_heads[0] for of_heads in found], [of_heads[1] for of_heads in found])
    output, log_sums = (
        torch.cat(pieces).unflatten(0, (batch, heads)).unflatten(2, shape).flatten(1, 2) for pieces in sides
    )
    received = [of_heads[2] for of_heads in found if of_heads[2] is not None]
    return output, log_sums, torch.cat(received).unflatten(0, (batch, heads)) / shape[0] if sums else None


def _of_heads(
    rows: torch.Tensor,
    parts: Parts,
    most: int,
    keys: torch.Tensor,
    values: torch.Tensor,
    masked: torch.Tensor,
    scaling: float,
    sums: bool,
    cap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return output (heads, rows, D), log-sum-exp (heads, rows) and column sums of some heads of rows, all at once."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    shape = (*rows.shape[:2], most + keys.shape[1])
    logits = torch.full(shape, -torch.inf, dtype=wide, device=rows.device)
    turn = rotation(rows.shape[2], rows.device).to(rows.dtype) if _any_rotated(parts) else None
    turned = rows if turn is None else rows @ turn.T
    for index, start, key, _ in _places(parts):
        logits[index, :, start : start + len(key.numbers)] = (turned if key.is_rotated else rows)[index] @ key.numbers.T
    logits[..., most:] = rows @ keys.transpose(1, 2)
    logits *= scaling
    if cap is not None:
        seen = logits != -torch.inf  # heads with fewer entries than others
        logits = torch.where(seen, cap * torch.tanh(logits / cap), logits)
    logits[..., most:].masked_fill_(masked, -torch.inf)
    shares = logits.softmax(dim=-1)
    weights = shares.to(rows.dtype)
    output = weights[..., most:] @ values
    rotated = output if turn is None else torch.zeros_like(output)
    for index, start, _, value in _places(parts):
        into = rotated if value.is_rotated else output
        into[index].addmm_(weights[index, :, start : start + len(value.numbers)], value.numbers)
    if turn is not None:
        output += rotated @ turn
    return output, logits.logsumexp(dim=-1), shares.sum(dim=1) if sums else None


def _of(stored: Rows, index: int) -> Part:
    rotated = stored.rotated_part(index)
    return Part(stored.part(index), False) if rotated is None else Part(rotated, True)


def _any_rotated(parts: Parts) -> bool:
    return any(side.is_rotated for of_head in parts for pair in of_head for side in pair)


def _places(parts: Parts) -> Iterator[tuple[int, int, Part, Part]]:
    """Yield each part that is not empty: of which head, after how many entries of it, keys and values."""
    for index, of_head in enumerate(parts):
        start = 0
        for key, value in of_head:
            if len(key.numbers):
                yield index, start, key, value
            start += len(key.numbers)
