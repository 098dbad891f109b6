"""Attention over heads of different length: pieces of like size, each a program, then merged by their log-sum-exp.

A program holds the queries of a group, of as many tokens as fit, and goes over a piece of one head's entries; packed
keys and values become numbers in registers. So do FlashDecoding and FlashInfer (https://arxiv.org/abs/2501.01005).
Temporary memory: a result in float32 for each piece, of which there are about as many as run at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl

from pikvpress.kernels.ragged_attention import reference
from pikvpress.kernels.ragged_attention.layout import Rows
from pikvpress.kernels.ragged_attention.plan import Partition, Piece, entries_a_piece, plan
from pikvpress.kernels.ragged_attention.tiles import ROTATED, key_tile, value_tile
from pikvpress.kernels.rotation import rotation
from pikvpress.kernels.tiles import padded_size, precision, product

PROGRAMS = 4  # that a multiprocessor runs at the same time, by their registers
INTERPRETED = 24  # programs where there is no GPU
ENTRY_BYTES = 8192  # of a tile of keys, or values
ROW_BYTES = 16384  # of a tile of queries
MERGED = 8192  # numbers of partial results in a tile
COLUMNS = tl.constexpr(len(Piece._fields))
NO_SPECIAL_SIZES = ["pieces", "recent_pieces", "recent_length", "num_recent", "num_rows"]  # they change all the time


def attend(
    query: torch.Tensor,
    held: Sequence[tuple[Rows, Rows]],
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to entries of any number a head, and to recent ones; see the reference.

    The reference itself runs where nothing is held, or something has no layout.

    Raises
    ------
    ValueError
        If keys or values are of another type than the queries.
    """
    layouts = [(k.layout, v.layout) for k, v in held]
    readable = [(k, v) for k, v in layouts if k is not None and v is not None]
    if not held or len(readable) < len(held):
        return reference.attend(query, held, keys, values, hidden, scaling)
    types = {keys.dtype, values.dtype, *(layout.dtype for pair in readable for layout in pair)}
    if types != {query.dtype}:
        raise ValueError(f"queries are {query.dtype}, keys and values {types}: convert them to one type")
    batch, num_heads, tokens, head_dim = query.shape
    heads, num_recent = keys.shape[1:3]
    places, num_rows = batch * heads, num_heads // heads * tokens
    sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    if query.numel() == 0:
        return torch.empty(query.shape, dtype=query.dtype, device=query.device), sums
    tile = _tile(query, num_rows)
    row_blocks = triton.cdiv(num_rows, tile["ROWS"])
    programs = max(1, _programs(query.device) >> (row_blocks - 1).bit_length())
    cut = plan(readable, programs)
    group = readable[0][0].group
    recent_length = entries_a_piece([num_recent] * places, programs, group)
    recent_pieces = triton.cdiv(num_recent, recent_length)
    pieces = cut.pieces + places * recent_pieces
    partial = torch.empty(pieces, num_rows, head_dim, dtype=torch.float32, device=query.device)
    log_sums = torch.empty(pieces, num_rows, dtype=torch.float32, device=query.device)
    # Beside queries and results, where anything is stored rotated, the same in its frame.
    rotate = rotation(head_dim, query.device) if cut.has_rotated else None
    query = query[None] if rotate is None else torch.stack([query, (query.float() @ rotate.T).to(query.dtype)])
    frames, turned, query = len(query), query.stride(0), query[0]
    output = torch.empty(
        frames, *query.shape, dtype=query.dtype if rotate is None else torch.float32, device=query.device
    )
    if pieces:
        hidden = hidden.expand(batch, num_heads, tokens, num_recent).view(torch.uint8)
        strides = (*query.stride(), *keys.stride(), *values.stride(), *hidden.stride())
        sizes = (cut.pieces, recent_pieces, recent_length, num_recent, num_rows, tokens, heads, head_dim)
        _piece_kernel[(pieces, row_blocks)](
            query, turned, cut.table, keys, values, hidden, partial, log_sums, scaling, *sizes, *strides,
            **tile, **_how_stored(cut), GROUP=group, PRECISION=precision(query), num_warps=4, num_stages=3,
        )  # fmt: skip
    _merge_kernel[(num_rows, places)](
        partial, log_sums, cut.table, cut.firsts, output, output[-1], sums, cut.pieces, recent_pieces, num_rows,
        head_dim, PIECES=MERGED // tile["DIM"], DIM=tile["DIM"], HAS_ROTATED=cut.has_rotated,
    )  # fmt: skip
    if rotate is None:
        return output[0], sums
    return (output[0] + output[1] @ rotate).to(query.dtype), sums


def _tile(query: torch.Tensor, num_rows: int) -> dict[str, int]:
    """Return the sizes of tiles: of larger numbers fewer, so that registers suffice."""
    dim = padded_size(query.shape[3])
    bytes_ = dim * query.dtype.itemsize
    return {
        "ROWS": min(padded_size(num_rows), max(16, ROW_BYTES // bytes_)),
        "ENTRIES": min(64, max(16, ENTRY_BYTES // bytes_)),
        "DIM": dim,
    }


def _how_stored(cut: Partition) -> dict[str, int]:
    return {
        "EXACT_ALIGN": cut.exact_align,
        "KEY_BITS": cut.key_bits,
        "KEY_ALIGN": cut.key_align,
        "VALUE_BITS": cut.value_bits,
        "VALUE_ALIGN": cut.value_align,
        "WIDTH_ALIGN": cut.width_align,
        "HAS_ROTATED": cut.has_rotated,
    }


@cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED
    return PROGRAMS * int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit(do_not_specialize=NO_SPECIAL_SIZES)
def _piece_kernel(
    query, turned, table, keys, values, hidden, partial, log_sums, scaling,
    pieces, recent_pieces, recent_length, num_recent, num_rows, tokens, heads, head_dim,
    query_batch, query_head, query_token, query_dim,
    key_batch, key_head, key_entry, key_dim,
    value_batch, value_head, value_entry, value_dim,
    hidden_batch, hidden_head, hidden_token, hidden_entry,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr, EXACT_ALIGN: tl.constexpr,
    KEY_BITS: tl.constexpr, KEY_ALIGN: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_ALIGN: tl.constexpr,
    WIDTH_ALIGN: tl.constexpr, HAS_ROTATED: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial[piece, row] = softmax(logits[row]) v over a piece's entries, log_sums[piece, row] = log Σ exp logits.

    Pieces of the table come first, then those of the recent entries, by place.
    """
    piece = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    members = num_rows // tokens
    if piece < pieces:
        columns = table + piece.to(tl.int64) * COLUMNS
        place = tl.load(columns)
        width = tl.load(columns + 7).to(tl.int32)
        channels = tl.load(columns + 9)
        packed = (tl.load(columns + 8) != 0) | (tl.load(columns + 14) != 0)
        if HAS_ROTATED:
            query += tl.where(tl.load(columns + 8) > ROTATED, turned, 0)
        dim = tl.arange(0, DIM)
        listed = tl.load(channels.to(tl.pointer_type(tl.int16)) + dim, mask=(dim < width) & (channels != 0), other=0)
        channel = tl.where(channels != 0, listed.to(tl.int32), dim)
        queries = tl.load(
            _rows_of(query, place, row, tokens, heads, members, query_batch, query_head, query_token)[:, None]
            + channel[None, :] * query_dim,
            mask=(row[:, None] < num_rows) & (dim[None, :] < width),
            other=0.0,
        )
        if EXACT_ALIGN > 0:  # noqa: SIM102 - decided when compiling
            if not packed:
                _held(
                    queries, columns, partial, log_sums, scaling, piece, row, num_rows, head_dim,
                    0, EXACT_ALIGN, 0, EXACT_ALIGN, WIDTH_ALIGN, ROWS, ENTRIES, DIM, GROUP, PRECISION,
                )  # fmt: skip
        if KEY_ALIGN > 0:  # noqa: SIM102
            if packed:
                _held(
                    queries, columns, partial, log_sums, scaling, piece, row, num_rows, head_dim,
                    KEY_BITS, KEY_ALIGN, VALUE_BITS, VALUE_ALIGN, WIDTH_ALIGN, ROWS, ENTRIES, DIM, GROUP, PRECISION,
                )  # fmt: skip
    else:
        place = ((piece - pieces) // recent_pieces).to(tl.int64)
        first = (piece - pieces) % recent_pieces * recent_length
        batch = place // heads
        head = place % heads
        _recent(
            _rows_of(query, place, row, tokens, heads, members, query_batch, query_head, query_token),
            keys + batch * key_batch + head * key_head, values + batch * value_batch + head * value_head,
            _rows_of(hidden, place, row, tokens, heads, members, hidden_batch, hidden_head, hidden_token),
            partial, log_sums, scaling, piece, row, num_rows, head_dim, first,
            tl.minimum(first + recent_length, num_recent), query_dim, key_entry, key_dim, value_entry, value_dim,
            hidden_entry, ROWS, ENTRIES, DIM, PRECISION,
        )  # fmt: skip


@triton.jit
def _rows_of(tensor, place, row, tokens, heads, members, stride_batch, stride_head, stride_token):
    """Return where a tensor (B, Q, n, …) has the rows of a KV head, which are its queries, token by token."""
    head = place % heads * members + row // tokens
    token = (row % tokens).to(tl.int64)  # masks of long prompts have more than 2^31 numbers
    return tensor + place // heads * stride_batch + head * stride_head + token * stride_token


@triton.jit
def _held(
    queries, columns, partial, log_sums, scaling, piece, row, num_rows, head_dim,
    KEY_BITS: tl.constexpr, KEY_ALIGN: tl.constexpr, VALUE_BITS: tl.constexpr, VALUE_ALIGN: tl.constexpr,
    WIDTH_ALIGN: tl.constexpr,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to a piece of what is held."""
    first, last = tl.load(columns + 1).to(tl.int32), tl.load(columns + 2).to(tl.int32)
    # Several numbers are loaded at once where the compiler is told that addresses are multiples.
    key_codes = tl.multiple_of(tl.load(columns + 3).to(tl.pointer_type(tl.uint8)), KEY_ALIGN)
    key_row = tl.multiple_of(tl.load(columns + 6).to(tl.int32), KEY_ALIGN)
    width = tl.multiple_of(tl.load(columns + 7).to(tl.int32), WIDTH_ALIGN)
    value_codes = tl.multiple_of(tl.load(columns + 10).to(tl.pointer_type(tl.uint8)), VALUE_ALIGN)
    value_row = tl.multiple_of(tl.load(columns + 13).to(tl.int32), VALUE_ALIGN)
    key_scales, key_zeros, key_bits = tl.load(columns + 4), tl.load(columns + 5), tl.load(columns + 8)
    key_block, key_lead = tl.load(columns + 15).to(tl.int32), tl.load(columns + 16)
    value_lead = tl.load(columns + 17)
    value_scales, value_zeros, value_bits = tl.load(columns + 11), tl.load(columns + 12), tl.load(columns + 14)
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, DIM), tl.float32)
    for start in range(first, last, ENTRIES):
        key = key_tile(
            key_codes, key_scales, key_zeros, key_lead, key_row, width, key_bits, key_block, start, last,
            KEY_BITS, queries.dtype, ENTRIES, DIM, GROUP,
        )  # fmt: skip
        value = value_tile(
            value_codes, value_scales, value_zeros, value_lead, value_row, head_dim, value_bits, start, last,
            VALUE_BITS, queries.dtype, ENTRIES, DIM, GROUP,
        )  # fmt: skip
        seen = (start + tl.arange(0, ENTRIES))[None, :] < last
        largest, total, sums = _joined(queries, key, value, seen, scaling, largest, total, sums, PRECISION)
    _store(partial, log_sums, piece, row, num_rows, head_dim, largest, total, sums, DIM)


@triton.jit
def _recent(
    query_rows, keys, values, hidden_rows, partial, log_sums, scaling, piece, row, num_rows, head_dim, first, last,
    query_dim, key_entry, key_dim, value_entry, value_dim, hidden_entry,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to a piece of the recent entries."""
    dim = tl.arange(0, DIM)
    queries = tl.load(
        query_rows[:, None] + dim[None, :] * query_dim,
        mask=(row[:, None] < num_rows) & (dim[None, :] < head_dim),
        other=0.0,
    )
    largest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, DIM), tl.float32)
    for start in range(first, last, ENTRIES):
        entry = start + tl.arange(0, ENTRIES)
        there = (entry[:, None] < last) & (dim[None, :] < head_dim)
        key = tl.load(keys + entry[:, None].to(tl.int64) * key_entry + dim[None, :] * key_dim, mask=there, other=0.0)
        value = tl.load(
            values + entry[:, None].to(tl.int64) * value_entry + dim[None, :] * value_dim, mask=there, other=0.0
        )
        inside = (row[:, None] < num_rows) & (entry[None, :] < last)
        concealed = tl.load(hidden_rows[:, None] + entry[None, :].to(tl.int64) * hidden_entry, mask=inside, other=1)
        largest, total, sums = _joined(queries, key, value, concealed == 0, scaling, largest, total, sums, PRECISION)
    _store(partial, log_sums, piece, row, num_rows, head_dim, largest, total, sums, DIM)


@triton.jit
def _joined(queries, key, value, seen, scaling, largest, total, sums, PRECISION: tl.constexpr):
    """Return largest logits, sums of exp(logits - largest), and of values times that, with a tile's taken in."""
    logits = tl.where(seen, product(queries, tl.trans(key), PRECISION) * scaling, -float("inf"))
    higher = tl.maximum(largest, tl.max(logits, axis=1))
    safe = tl.where(higher == -float("inf"), 0.0, higher)
    weights = tl.exp(logits - safe[:, None])
    shrink = tl.exp(largest - safe)
    total = total * shrink + tl.sum(weights, axis=1)
    sums = sums * shrink[:, None] + product(weights.to(value.dtype), value, PRECISION)
    return higher, total, sums


@triton.jit
def _store(partial, log_sums, piece, row, num_rows, head_dim, largest, total, sums, DIM: tl.constexpr):
    dim = tl.arange(0, DIM)
    found = total > 0
    divisor = tl.where(found, total, 1.0)
    place = piece.to(tl.int64) * num_rows + row
    tl.store(log_sums + place, tl.where(found, largest + tl.log(divisor), -float("inf")), mask=row < num_rows)
    tl.store(
        partial + place[:, None] * head_dim + dim[None, :],
        sums / divisor[:, None],
        mask=(row[:, None] < num_rows) & (dim[None, :] < head_dim),
    )


@triton.jit(do_not_specialize=NO_SPECIAL_SIZES)
def _merge_kernel(
    partial, log_sums, table, firsts, output, rotated_output, sums, pieces, recent_pieces, num_rows, head_dim,
    PIECES: tl.constexpr, DIM: tl.constexpr, HAS_ROTATED: tl.constexpr,
):  # fmt: skip
    """Weigh the results of a place's pieces by exp(their log-sum-exp)."""
    row, place = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, DIM)
    first = tl.load(firsts + place)
    held = tl.load(firsts + place + 1) - first
    largest = -float("inf")
    total = 0.0
    merged = tl.zeros((DIM,), tl.float32)
    rotated = tl.zeros((DIM,), tl.float32)
    for start in range(0, held + recent_pieces, PIECES):
        number = start + tl.arange(0, PIECES)
        there = number < held + recent_pieces
        piece = tl.where(number < held, first + number, pieces + place * recent_pieces + number - held)
        at = piece.to(tl.int64) * num_rows + row
        log_sum = tl.load(log_sums + at, mask=there, other=-float("inf"))
        result = tl.load(
            partial + at[:, None] * head_dim + dim[None, :], mask=there[:, None] & (dim[None, :] < head_dim), other=0.0
        )
        higher = tl.maximum(largest, tl.max(log_sum, axis=0))
        safe = tl.where(higher == -float("inf"), 0.0, higher)
        weight = tl.exp(log_sum - safe)
        shrink = tl.exp(largest - safe)
        total = total * shrink + tl.sum(weight, axis=0)
        if HAS_ROTATED:
            bits = tl.load(table + piece.to(tl.int64) * COLUMNS + 14, mask=number < held, other=0)
            rotated = rotated * shrink + tl.sum(tl.where(bits > ROTATED, weight, 0.0)[:, None] * result, axis=0)
            weight = tl.where(bits > ROTATED, 0.0, weight)
        merged = merged * shrink + tl.sum(weight[:, None] * result, axis=0)
        largest = higher
    divisor = tl.where(total > 0, total, 1.0)
    at = place.to(tl.int64) * num_rows + row
    tl.store(output + at * head_dim + dim, (merged / divisor).to(output.dtype.element_ty), mask=dim < head_dim)
    if HAS_ROTATED:
        tl.store(rotated_output + at * head_dim + dim, rotated / divisor, mask=dim < head_dim)
    tl.store(sums + at, tl.where(total > 0, largest + tl.log(divisor), -float("inf")))
