"""Attention over heads of different length on a CPU: pieces of like size on as many threads as torch has, then merged.

Work is split over heads and over stretches of their entries, as on a GPU, so that few heads keep many cores at work
(FlashDecoding, FlashInfer: https://arxiv.org/abs/2501.01005). Codes are read where they lie. Temporary memory: a result
in float32 for each piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from pikvpress.kernels.ragged_attention import loops, reference
from pikvpress.kernels.ragged_attention.layout import Layout, Rows
from pikvpress.kernels.ragged_attention.plan import entries_a_piece, plan
from pikvpress.kernels.rotation import rotation
from pikvpress.kernels.threads import CREW

PIECES = 4  # for each thread: the others wait no longer for a thread that is late than a piece takes
MOST_ROWS = 256  # queries of a KV head up to which this was measured to be faster than the reference
KINDS = {torch.float32: loops.EXACT, torch.float16: loops.HALF, torch.bfloat16: loops.BFLOAT}


def attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to entries of any number a head, and to recent ones; see the reference.

    The reference itself runs where nothing is held, something has no layout, or there are more than `MOST_ROWS`
    queries for a KV head. Sums are in float32 for every type.

    Raises
    ------
    ValueError
        If keys or values are of another type than the queries, or anything is not on a CPU.
    """
    layouts = [(k.layout, v.layout) for k, v in held]
    readable = [(k, v) for k, v in layouts if k is not None and v is not None]
    batch, num_heads, tokens, head_dim = query.shape
    heads = keys.shape[1]
    rows = num_heads // max(1, heads) * tokens
    if not held or len(readable) < len(held) or rows > MOST_ROWS or query.numel() == 0:
        return reference.attend(query, held, keys, values, hidden, scaling)
    _check(query, readable, keys, values, hidden)
    programs = PIECES * torch.get_num_threads()
    cut = plan(readable, programs)
    keys, values = (states if states.stride(3) == 1 else states.contiguous() for states in (keys, values))
    hidden = hidden.expand(batch, num_heads, tokens, keys.shape[2])
    recent = _recent(keys, values, hidden, readable[0][0].group, programs)
    # Powers are of two, so that logits are, too.
    queries = query.detach().float().mul(scaling / math.log(2)).reshape(batch * heads, rows, head_dim)
    turn = rotation(head_dim, query.device) if cut.has_rotated else None
    turned = queries if turn is None else queries @ turn.T
    pieces = cut.pieces + batch * heads * recent.pieces
    partial, log_sums = torch.empty(pieces, rows, head_dim).numpy(), torch.empty(pieces, rows).numpy()
    given = (queries.contiguous().numpy(), turned.contiguous().numpy(), np.array(recent), partial, log_sums)
    table = cut.table.numpy()
    CREW.run(lambda number: loops.attend_piece(table, number, *given), pieces)
    output, rotated = torch.empty(2, *queries.shape)
    sums = torch.empty(queries.shape[:2])
    merged = (output.numpy(), rotated.numpy(), sums.numpy())
    loops.merge(table, cut.firsts.numpy(), recent.pieces, partial, log_sums, *merged)
    if turn is not None:
        output += rotated @ turn
    return output.view(query.shape).to(query.dtype), sums.view(query.shape[:3])


def _check(
    query: torch.Tensor,
    held: Sequence[tuple[Layout, Layout]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
) -> None:
    """Refuse what would be read as something that it is not."""
    types = {keys.dtype, values.dtype, *(layout.dtype for pair in held for layout in pair)}
    if types != {query.dtype}:
        raise ValueError(f"queries are {query.dtype}, keys and values {types}: convert them to one type")
    buffers = [layout.buffer for pair in held for layout in pair]
    devices = {tensor.device.type for tensor in (query, keys, values, hidden, *buffers)}
    if devices != {"cpu"}:
        raise ValueError(f"queries, keys and values are on {sorted(devices)}: move all of them to one device")
    if hidden.dtype != torch.bool:
        raise ValueError(f"what is hidden is {hidden.dtype}: pass a mask of type bool, true where entries are hidden")


def _recent(keys: torch.Tensor, values: torch.Tensor, hidden: torch.Tensor, group: int, programs: int) -> loops.Recent:
    """Return where the recent entries lie and how they are cut into pieces."""
    batch, heads, entries, _ = keys.shape
    length = entries_a_piece([entries] * (batch * heads), programs, group)
    where = [
        (states.data_ptr(), *(states.element_size() * step for step in states.stride()[: 3 + (states is hidden)]))
        for states in (keys, values, hidden)
    ]
    return loops.Recent._make(
        (-(-entries // length), length, entries, heads, hidden.shape[2], KINDS[keys.dtype], group, *sum(where, ()))
    )
