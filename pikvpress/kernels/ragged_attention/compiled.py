"""Attention over heads of different length on a CPU: pieces of like size on up to as many threads as torch has, merged.

Work is split over heads and over stretches of their entries, as on a GPU, so that few heads keep many cores at work
(FlashDecoding, FlashInfer: https://arxiv.org/abs/2501.01005). Codes are read where they lie. Temporary memory: a result
in float32 for each piece.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from pikvpress.kernels.ragged_attention import loops, reference
from pikvpress.kernels.ragged_attention.layout import Layout, Rows
from pikvpress.kernels.ragged_attention.plan import Partition, entries_a_piece, plan
from pikvpress.kernels.rotation import rotation
from pikvpress.kernels.threads import CREW

PIECES = 4  # for each thread: the others wait no longer for a thread that is late than a piece takes
PRODUCTS = 2**19  # of numbers of queries and keys that are worth a thread: some 200 microseconds
MOST_ROWS = 256  # queries of a KV head up to which this was measured to be faster than the reference
NOWHERE, NOTHING = np.zeros(1, np.int64), np.empty((0, 0), np.float32)
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
    if not _readable(query, held, keys):
        return reference.attend(query, held, keys, values, hidden, scaling)
    output, log_sums, _ = _attend(query, held, keys, values, hidden, scaling, is_summed=False)
    return output, log_sums


def attend_and_sum(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend as `attend` does, and return the attention that entries receive as well; see the reference.

    Logits are kept until their sums are known: temporary memory of a number in float32 for each query and entry.

    Raises
    ------
    ValueError
        As `attend`.
    """
    if not _readable(query, held, keys):
        return reference.attend_and_sum(query, held, keys, values, hidden, scaling)
    output, log_sums, received = _attend(query, held, keys, values, hidden, scaling, is_summed=True)
    assert received is not None
    return output, log_sums, received


def _readable(query: torch.Tensor, held: Sequence[tuple[Rows, Rows]], keys: torch.Tensor) -> bool:
    """Return whether compiled loops read this, and in less time than the reference."""
    rows = query.shape[1] // max(1, keys.shape[1]) * query.shape[2]
    has_layouts = all(side.layout is not None for pair in held for side in pair)
    return len(held) > 0 and has_layouts and rows <= MOST_ROWS and query.numel() > 0


def _attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
    is_summed: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    layouts = [(k.layout, v.layout) for k, v in held]
    readable = [(k, v) for k, v in layouts if k is not None and v is not None]
    batch, num_heads, tokens, head_dim = query.shape
    heads = keys.shape[1]
    rows = num_heads // heads * tokens
    _check(query, readable, keys, values, hidden)
    entries = sum(sum(layout.counts) for layout, _ in readable) + batch * heads * keys.shape[2]
    threads = max(1, min(torch.get_num_threads(), entries * rows * head_dim // PRODUCTS))
    programs = PIECES * threads
    cut = plan(readable, programs)
    keys, values = (states if states.stride(3) == 1 else states.contiguous() for states in (keys, values))
    hidden = hidden.expand(batch, num_heads, tokens, keys.shape[2])
    recent = _recent(keys, values, hidden, readable[0][0].group, programs)
    rows_of = query.detach().float().reshape(batch * heads, rows, head_dim).contiguous().numpy()
    turn = rotation(head_dim, query.device).numpy() if cut.has_rotated else NOTHING
    table, firsts = cut.table.numpy(), cut.firsts.numpy()
    places = _places(cut, recent, batch * heads) if is_summed else NOWHERE
    kept = np.empty((rows, int(places[-1])), np.float32) if is_summed else NOTHING
    output, sums = torch.empty(query.shape), torch.empty(query.shape[:3])
    found = output.numpy().reshape(rows_of.shape), sums.numpy().reshape(rows_of.shape[:2])
    factor = scaling / math.log(2)  # powers are of two, so that logits are, too
    if threads == 1:
        loops.attend(rows_of, factor, turn, table, firsts, np.array(recent), kept, places, *found)
    else:
        pieces = cut.pieces + batch * heads * recent.pieces
        partial, log_sums = np.empty((pieces, rows, head_dim), np.float32), np.empty((pieces, rows), np.float32)
        given = (table, *loops.scaled(rows_of, factor, turn), np.array(recent), partial, log_sums, kept, places)
        CREW.run(lambda number: loops.attend_pieces(number, number + 1, *given), pieces, threads)
        loops.merge(table, firsts, recent.pieces, partial, log_sums, turn, *found)
    received = None
    if is_summed:
        received = _received(cut, recent, kept, places, found[1]).div_(num_heads // heads).unflatten(0, (batch, heads))
    return output.to(query.dtype), sums, received


def _places(cut: Partition, recent: loops.Recent, heads: int) -> np.ndarray:
    """Return where the entries of each piece begin if those of all pieces follow each other, and their number."""
    held = (cut.table[:, loops.LAST] - cut.table[:, loops.FIRST]).tolist()
    begun = range(0, recent.pieces * recent.length, recent.length) if recent.pieces else ()
    late = [min(recent.length, recent.entries - first) for first in begun] * heads
    return np.array([0, *itertools.accumulate([*held, *late])])


def _received(
    cut: Partition, recent: loops.Recent, kept: np.ndarray, places: np.ndarray, log_sums: np.ndarray
) -> torch.Tensor:
    """Return the sums of weights of each head's held entries, zeros up to the most that a head has, and recent ones."""
    summed = torch.empty(int(places[-1]))
    of_pieces, of_places = summed.numpy(), cut.table[:, loops.PLACE].tolist()
    held = cut.pieces

    for piece, (first, last) in enumerate(itertools.pairwise(places.tolist())):
        place = of_places[piece] if piece < held else (piece - held) // recent.pieces
        loops.sum_weights(kept, first, last, log_sums[place], of_pieces[first:last])
    bounds = places[cut.firsts.numpy()]
    counts = np.diff(bounds).tolist()
    received = torch.zeros(len(counts), max(counts) + recent.entries)
    for place, (first, count) in enumerate(zip(bounds.tolist(), counts, strict=False)):
        received[place, :count] = summed[first : first + count]
    received[:, max(counts) :] = summed[int(bounds[-1]) :].view(len(counts), recent.entries)
    return received


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
