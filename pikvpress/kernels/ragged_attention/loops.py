"""Loops of attention on a CPU, compiled when this module is imported: one piece of a plan, and merging of pieces.

A piece is read in tiles of `TILE` entries. A tile of codes becomes numbers in a small buffer that stays in the fastest
cache, without scales: those of integer keys are multiplied into the queries, those of rotated keys into the logits, and
those of values into the weights.

    logit[r, t]  = scale[t] · Σ_c (q[r, c] · scale[c]) · code[t, c] + Σ_c q[r, c] · zero[c]
    output[r, c] = Σ_t (weight[r, t] · scale[t]) · code[t, c] + Σ_t weight[r, t] · zero[t]

Weights are relative to the largest logit so far; when a larger one comes, what has been summed shrinks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from pikvpress.kernels.compiling import compiled
from pikvpress.kernels.ragged_attention import plan
from pikvpress.kernels.rotation import LEVELS
from pikvpress.kernels.vectors import (
    ENTRIES,
    LANES,
    WIDE,
    from_bfloat,
    from_half,
    maximum,
    odd_polynomial_of_4,
    odd_polynomial_of_8,
    one_sum_of_1,
    pointer,
    power_of_two,
    products_of_1,
    products_of_2,
    products_of_4,
    spread_codes,
    sums_of_1,
    sums_of_2,
    sums_of_4,
)

TILE = 64  # entries; all keys of a tile share their scales
LINE = 64  # bytes of a line of a cache: reading a vector that lies in two takes twice the time
EXACT, HALF, BFLOAT = 0, 1, 2  # types of numbers that are not packed
ROTATED = plan.ROTATED
COLUMNS = len(plan.Piece._fields)
(
    PLACE, FIRST, LAST, KEY_CODES, KEY_SCALES, KEY_ZEROS, KEY_ROW, KEY_WIDTH, KEY_BITS, CHANNELS,
    VALUE_CODES, VALUE_SCALES, VALUE_ZEROS, VALUE_ROW, VALUE_BITS, KEY_BLOCK, KEY_LEAD, VALUE_LEAD,
) = range(COLUMNS)  # fmt: skip
LN_2 = np.float32(np.log(2.0))
INFINITY = np.float32(np.inf)


class Recent(NamedTuple):
    """The recent entries, which all heads have, and what else pieces have in common.

    Attributes
    ----------
    pieces, length : int
        Pieces of a head, and entries of a piece.
    entries, heads, tokens : int
        Number of recent entries, of KV heads, and of tokens that are queries.
    kind, group : int
        Type of exact numbers; how many numbers share a scale.
    keys, values, hidden : int
        Addresses.
    key_batch, key_head, key_entry, value_batch, value_head, value_entry : int
        Bytes from one to the next.
    hidden_batch, hidden_head, hidden_token, hidden_entry : int
        Likewise; the head is one of the queries'.
    """

    pieces: int
    length: int
    entries: int
    heads: int
    tokens: int
    kind: int
    group: int
    keys: int
    key_batch: int
    key_head: int
    key_entry: int
    values: int
    value_batch: int
    value_head: int
    value_entry: int
    hidden: int
    hidden_batch: int
    hidden_head: int
    hidden_token: int
    hidden_entry: int


(
    PIECES, LENGTH, RECENT, HEADS, TOKENS, KIND, GROUP, KEYS, KEY_BATCH, KEY_HEAD, KEY_ENTRY,
    VALUES, VALUE_BATCH, VALUE_HEAD, VALUE_ENTRY, HIDDEN, HIDDEN_BATCH, HIDDEN_HEAD, HIDDEN_TOKEN, HIDDEN_ENTRY,
) = range(len(Recent._fields))  # fmt: skip


def _odd_polynomials() -> np.ndarray:
    """Return the coefficients of the odd polynomials that take codes, shifted and scaled to (-1, 1), to their levels.

    Of b bits there are 2^(b - 1) levels on each side, and as many coefficients: no level is missed by more than the
    rounding of float32.
    """
    coefficients = np.zeros((5, 8), dtype=np.float32)
    for bits, levels in LEVELS.items():
        half = len(levels) // 2
        places = (np.arange(half) + 0.5) / half
        powers = places[:, None] ** (2 * np.arange(half) + 1)
        coefficients[bits, :half] = np.linalg.solve(powers, np.array(levels[half:]))
    return coefficients


POLYNOMIALS = _odd_polynomials()


@compiled()
def _halves(address, count):
    return carray(pointer(address), (count,), np.uint16)


@compiled()
def _unpack(codes, bits, count, tile):
    """Write `count` packed codes as numbers, and up to LANES - 1 more: rows follow each other without a gap."""
    eights = (count + 7) // 8
    pairs, last = eights // 2, 8 * (eights - 1)
    is_odd, nothing = eights % 2 == 1, np.uint32(0)
    if bits == 8:
        numbers = carray(pointer(codes), (count,), np.uint8)
        for i in range(count):
            tile[i] = np.float32(numbers[i])
    elif bits == 4:
        fours = carray(pointer(codes), (pairs, 2), np.uint32)
        for i in range(pairs):
            spread_codes(tile, LANES * i, fours[i, 0], fours[i, 1], np.uint32(4))
        if is_odd:
            spread_codes(tile, last, carray(pointer(codes), (eights,), np.uint32)[eights - 1], nothing, np.uint32(4))
    elif bits == 3:
        threes = carray(pointer(codes), (pairs, 6), np.uint8)
        for i in range(pairs):
            low = _of_three_bytes(threes[i, 0], threes[i, 1], threes[i, 2])
            high = _of_three_bytes(threes[i, 3], threes[i, 4], threes[i, 5])
            spread_codes(tile, LANES * i, low, high, np.uint32(3))
        if is_odd:
            three = carray(pointer(codes + 3 * (eights - 1)), (3,), np.uint8)
            spread_codes(tile, last, _of_three_bytes(three[0], three[1], three[2]), nothing, np.uint32(3))
    elif bits == 2:
        twos = carray(pointer(codes), (pairs, 2), np.uint16)
        for i in range(pairs):
            spread_codes(tile, LANES * i, np.uint32(twos[i, 0]), np.uint32(twos[i, 1]), np.uint32(2))
        if is_odd:
            two = carray(pointer(codes), (eights,), np.uint16)[eights - 1]
            spread_codes(tile, last, np.uint32(two), nothing, np.uint32(2))
    else:
        ones = carray(pointer(codes), (pairs, 2), np.uint8)
        for i in range(pairs):
            spread_codes(tile, LANES * i, np.uint32(ones[i, 0]), np.uint32(ones[i, 1]), np.uint32(1))
        if is_odd:
            one = carray(pointer(codes), (eights,), np.uint8)[eights - 1]
            spread_codes(tile, last, np.uint32(one), nothing, np.uint32(1))


@compiled()
def _of_three_bytes(low, middle, high):
    return np.uint32(np.uint32(low) | np.uint32(middle) << 8 | np.uint32(high) << 16)


@compiled()
def _to_levels(tile, bits, count):
    """Replace codes by their levels, and up to LANES - 1 numbers more by whatever."""
    half = np.float32(2.0 ** (bits - 1))
    shift, factor = half - np.float32(0.5), np.float32(1.0) / half
    c = POLYNOMIALS[bits]
    if bits == 4:
        coefficients = (c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7])
        for at in range(0, count, WIDE):
            odd_polynomial_of_8(tile, at, shift, factor, coefficients)
    else:
        for at in range(0, count, WIDE):
            odd_polynomial_of_4(tile, at, shift, factor, (c[0], c[1], c[2], c[3]))


@compiled()
def _widen(address, kind, count, tile):
    """Write numbers of 16 bits in float32."""
    numbers = _halves(address, count)
    if kind == HALF:
        for i in range(count):
            tile[i] = from_half(numbers[i])
    else:
        for i in range(count):
            tile[i] = from_bfloat(numbers[i])


@compiled()
def _read(codes, row_bytes, width, bits, kind, start, entries, tile):
    """Return a tile of numbers, without scales, and how far apart its rows are: where they lie, or the buffer."""
    first = codes + start * row_bytes
    if bits == 0 and kind == EXACT:
        step = row_bytes // 4
        return carray(pointer(first), ((entries - 1) * step + width,), np.float32), step
    if bits == 0:
        if row_bytes == 2 * width:
            _widen(first, kind, entries * width, tile)
        else:
            for t in range(entries):
                _widen(first + t * row_bytes, kind, width, tile[t * width : (t + 1) * width])
    elif bits > ROTATED:
        _unpack(first, bits - ROTATED, entries * width, tile)
        _to_levels(tile, bits - ROTATED, entries * width)
    else:
        _unpack(first, bits, entries * width, tile)
    return tile, width


@compiled()
def _dot_products(queries, numbers, step, width, entries, products):
    """products[r, t] = queries[r] · numbers[t]"""
    rows, whole, vectors = queries.shape[0], entries // ENTRIES * ENTRIES, width // WIDE * WIDE
    for t in range(0, whole, ENTRIES):
        row = 0
        while row + 4 <= rows:
            products_of_4(queries, row, numbers, t * step, step, width, products, t)
            row += 4
        if row + 2 <= rows:
            products_of_2(queries, row, numbers, t * step, step, width, products, t)
            row += 2
        if row < rows:
            products_of_1(queries, row, numbers, t * step, step, width, products, t)
    if vectors == width and whole == entries:
        return
    for r in range(rows):
        query = queries[r]
        for t in range(entries):
            first = vectors if t < whole else 0
            key = numbers[t * step + first : t * step + width]
            total = products[r, t] if first else np.float32(0.0)
            for c in range(width - first):
                total += query[first + c] * key[c]
            products[r, t] = total


@compiled()
def _weighted_sums(weights, numbers, step, first, last, entries, sums):
    """sums[r, first:last] += Σ_t weights[r, t] · numbers[t, first:last]"""
    rows, channel = weights.shape[0], first
    while channel + 4 * WIDE <= last:
        row = 0
        while row + 4 <= rows:
            sums_of_4(weights, row, numbers, 0, step, entries, sums, channel)
            row += 4
        if row + 2 <= rows:
            sums_of_2(weights, row, numbers, 0, step, entries, sums, channel)
            row += 2
        if row < rows:
            sums_of_1(weights, row, numbers, 0, step, entries, sums, channel)
        channel += 4 * WIDE
    while channel + WIDE <= last:
        for row in range(rows):
            one_sum_of_1(weights, row, numbers, 0, step, entries, sums, channel)
        channel += WIDE
    for r in range(rows):
        for c in range(channel, last):
            for t in range(entries):
                sums[r, c] += weights[r, t] * numbers[t * step + c]


@compiled()
def _fold_keys(query, scales, zeros, folded):
    """Return q · zero, and write q ∘ scale."""
    total = np.float32(0.0)
    for c in range(query.shape[0]):
        folded[c] = query[c] * from_half(scales[c])
        total += query[c] * from_half(zeros[c])
    return total


@compiled()
def _half_product(query, halves):
    """Return the product of a query and a row in float16."""
    total = np.float32(0.0)
    for c in range(query.shape[0]):
        total += query[c] * from_half(halves[c])
    return total


@compiled()
def _logits(columns, queries, folded, kind, group, start, entries, tile, steps, bases, logits):
    """Write the products of queries and a tile of keys."""
    codes, scales, zeros, row_bytes = columns[KEY_CODES], columns[KEY_SCALES], columns[KEY_ZEROS], columns[KEY_ROW]
    width, bits, block, lead = columns[KEY_WIDTH], columns[KEY_BITS], columns[KEY_BLOCK], columns[KEY_LEAD]
    rows = queries.shape[0]
    numbers, step = _read(codes, row_bytes, width, bits, kind, start, entries, tile)
    factors = queries
    if 0 < bits < ROTATED:
        at = 2 * (start // group * width)
        scale, zero = _halves(scales + at, width), _halves(zeros + at, width)
        for r in range(rows):
            bases[r] = _fold_keys(queries[r], scale, zero, folded[r])
        factors = folded
    _dot_products(factors, numbers, step, width, entries, logits)
    if bits > ROTATED:
        _widen(scales + 2 * start, HALF, entries, steps)
        mean = _halves(zeros + 2 * (start // block * width), width)
        for r in range(rows):
            bases[r] = _half_product(queries[r], mean)
            for t in range(entries):
                logits[r, t] *= steps[t]
    if bits > 0:
        for r in range(rows):
            base = bases[r]
            for t in range(entries):
                logits[r, t] += base
    if start == 0 and lead != 0:
        for r in range(rows):
            logits[r, 0] = _half_product(queries[r], _halves(lead, width))


@compiled()
def _add_values(columns, weights, scaled, kind, group, start, entries, tile, steps, bases, sums):
    """Add a tile of values, times their weights, to sums."""
    codes, row_bytes, bits, lead = columns[VALUE_CODES], columns[VALUE_ROW], columns[VALUE_BITS], columns[VALUE_LEAD]
    scales, zeros = columns[VALUE_SCALES], columns[VALUE_ZEROS]
    rows, head_dim = sums.shape
    numbers, step = _read(codes, row_bytes, head_dim, bits, kind, start, entries, tile)
    has_groups = 0 < bits < ROTATED
    groups = (head_dim + group - 1) // group if has_groups else 1
    for g in range(groups):
        first, last = g * group if has_groups else 0, min((g + 1) * group, head_dim) if has_groups else head_dim
        factors = weights
        if bits > 0:
            _strided_halves(scales + 2 * (start * groups + g), groups, entries, steps)
            for r in range(rows):
                _multiply(weights[r], steps, entries, scaled[r])
            factors = scaled
        if has_groups:
            _strided_halves(zeros + 2 * (start * groups + g), groups, entries, bases)
            for r in range(rows):
                base = _product(weights[r], bases, entries)
                total = sums[r, first:last]
                for c in range(last - first):
                    total[c] += base
        elif start == 0 and lead != 0:
            row = _halves(lead, head_dim)
            for r in range(rows):
                scaled[r, 0] = np.float32(0.0)
                for c in range(head_dim):
                    sums[r, c] += weights[r, 0] * from_half(row[c])
        _weighted_sums(factors, numbers, step, first, last, entries, sums)


@compiled()
def _strided_halves(address, step, count, found):
    """Write every so many numbers of 16 bits in float32."""
    numbers = _halves(address, (count - 1) * step + 1)
    if step == 1:
        for t in range(count):
            found[t] = from_half(numbers[t])
    elif step == 2:  # most often; a loop whose step is known becomes vectors
        for t in range(count):
            found[t] = from_half(numbers[2 * t])
    else:
        for t in range(count):
            found[t] = from_half(numbers[t * step])


@compiled()
def _multiply(one, other, count, found):
    for t in range(count):
        found[t] = one[t] * other[t]


@compiled()
def _product(one, other, count):
    total = np.float32(0.0)
    for t in range(count):
        total += one[t] * other[t]
    return total


@compiled()
def _to_weights(row, entries, largest):
    """Replace logits by 2^(logit - largest), and return their sum."""
    total = np.float32(0.0)
    for t in range(entries):
        row[t] = power_of_two(row[t] - largest)
        total += row[t]
    return total


@compiled()
def _hide(recent, place, start, entries, logits):
    """Set logits of recent entries that queries do not see to minus infinity."""
    rows, tokens = logits.shape[0], recent[TOKENS]
    batch, head = place // recent[HEADS], place % recent[HEADS]
    step = recent[HIDDEN_ENTRY]
    for r in range(rows):
        query_head = head * (rows // tokens) + r // tokens
        row = recent[HIDDEN] + batch * recent[HIDDEN_BATCH] + query_head * recent[HIDDEN_HEAD]
        first = row + r % tokens * recent[HIDDEN_TOKEN] + start * step
        hidden = carray(pointer(first), ((entries - 1) * step + 1,), np.uint8)
        for t in range(entries):
            if hidden[t * step]:
                logits[r, t] = -INFINITY


@compiled()
def _recent_piece(recent, number, head_dim, columns):
    """Write a row as of a plan's table, of zeros before, for a piece of the recent entries."""
    place, first = number // recent[PIECES], number % recent[PIECES] * recent[LENGTH]
    batch, head = place // recent[HEADS], place % recent[HEADS]
    columns[PLACE], columns[FIRST], columns[LAST] = place, first, min(first + recent[LENGTH], recent[RECENT])
    columns[KEY_CODES] = recent[KEYS] + batch * recent[KEY_BATCH] + head * recent[KEY_HEAD]
    columns[KEY_ROW], columns[KEY_WIDTH] = recent[KEY_ENTRY], head_dim
    columns[VALUE_CODES] = recent[VALUES] + batch * recent[VALUE_BATCH] + head * recent[VALUE_HEAD]
    columns[VALUE_ROW] = recent[VALUE_ENTRY]


@compiled()
def _some_channels(queries, channels, narrow):
    """Write the channels of queries that are listed at an address."""
    rows, width = narrow.shape
    listed = carray(pointer(channels), (width,), np.int16)
    for r in range(rows):
        for c in range(width):
            narrow[r, c] = queries[r, listed[c]]


@compiled()
def _taken(address, rows, columns):
    """Return numbers at an address, and the address after them.

    Unlike slices of an array, those of such numbers do not count who refers to them, which would take more time than
    some of the loops.
    """
    return carray(pointer(address), (rows, columns), np.float32), address + 4 * rows * columns


@compiled()
def _attend_piece(table, number, queries, turned, recent, partial, log_sums, kept, places):
    pieces, (rows, head_dim) = table.shape[0], queries.shape[1:]
    kind, group = recent[KIND], recent[GROUP]
    is_recent = number >= pieces
    row = np.zeros(COLUMNS, np.int64)
    columns = carray(pointer(row.ctypes.data), (COLUMNS,), np.int64)
    if is_recent:
        _recent_piece(recent, number - pieces, head_dim, columns)
    else:
        columns[:] = table[number]
    place, width = columns[PLACE], columns[KEY_WIDTH]
    room = np.empty(TILE * (head_dim + 2) + rows * (2 * width + 2 * TILE + 3) + LANES + LINE // 4, np.float32)
    at = room.ctypes.data + -room.ctypes.data % LINE
    tile, at = _taken(at, 1, TILE * head_dim + LANES)
    logits, at = _taken(at, rows, TILE)
    scaled, at = _taken(at, rows, TILE)
    narrow, at = _taken(at, rows, width)
    folded, at = _taken(at, rows, width)
    steps, at = _taken(at, 1, TILE)
    bases, at = _taken(at, 1, TILE + rows)
    largest, at = _taken(at, 1, rows)
    totals, at = _taken(at, 1, rows)
    tile, steps, bases, largest, totals = tile[0], steps[0], bases[0], largest[0], totals[0]
    sums, _ = _taken(partial.ctypes.data + 4 * number * rows * head_dim, rows, head_dim)
    source = turned.ctypes.data if columns[KEY_BITS] > ROTATED else queries.ctypes.data
    seen, _ = _taken(source + 4 * place * rows * head_dim, rows, head_dim)
    if width < head_dim:  # even if no channel is stored, so that their list is nowhere
        _some_channels(seen, columns[CHANNELS], narrow)
        seen = narrow
    largest[:] = -INFINITY
    totals[:] = np.float32(0.0)
    sums[:] = np.float32(0.0)
    for start in range(columns[FIRST], columns[LAST], TILE):
        entries = min(TILE, columns[LAST] - start)
        _logits(columns, seen, folded, kind, group, start, entries, tile, steps, bases, logits)
        if is_recent:
            _hide(recent, place, start, entries, logits)
        if kept.shape[0] > 0:
            at = places[number] + start - columns[FIRST]
            for r in range(rows):
                kept[r, at : at + entries] = logits[r, :entries]
        for r in range(rows):
            logits[r, entries:] = -INFINITY
            higher = maximum(logits, r, TILE)
            if higher > largest[r]:
                shrink = power_of_two(largest[r] - higher)
                totals[r] *= shrink
                row_sums = sums[r]
                for c in range(head_dim):
                    row_sums[c] *= shrink
                largest[r] = higher
            totals[r] += _to_weights(logits[r], entries, largest[r] if largest[r] > -INFINITY else np.float32(0.0))
        _add_values(columns, logits, scaled, kind, group, start, entries, tile, steps, bases, sums)
    for r in range(rows):
        log_sums[number, r] = largest[r] * LN_2 + np.log(totals[r]) if totals[r] != 0 else -INFINITY
        if totals[r] != 0:
            sums[r] /= totals[r]
    return row.size + room.size  # their memory is not freed before this


@compiled(
    "void(int64, int64, int64[:, ::1], float32[:, :, ::1], float32[:, :, ::1], int64[::1], float32[:, :, ::1], "
    "float32[:, ::1], float32[:, ::1], int64[::1])"
)
def attend_pieces(first, last, table, queries, turned, recent, partial, log_sums, kept, places):
    """Attend to pieces: of a plan's table and, with higher numbers, of the recent entries.

    partial[piece, r] = softmax(logits[r]) v over the piece's entries, log_sums[piece, r] = log Σ exp logits[r].

    Parameters
    ----------
    first, last : int
        Numbers of the pieces, the last one excluded. Those of the recent entries follow the table's, by place.
    table : array
        A `plan.Piece` a row.
    queries, turned : array
        Shape (places, rows, head_dim), times the scaling of logits and log2(e); as they are, and for rotated keys.
    recent : array
        A `Recent`.
    partial, log_sums : array
        Written: shape (pieces, rows, head_dim) and (pieces, rows).
    kept : array
        Written: logits in powers of two, shape (rows, entries of all pieces); or (0, 0) if they are not wanted.
    places : array
        Where in `kept` the entries of each piece begin.
    """
    for number in range(first, last):
        _attend_piece(table, number, queries, turned, recent, partial, log_sums, kept, places)


@compiled("UniTuple(float32[:, :, ::1], 2)(float32[:, :, ::1], float64, float32[:, ::1])")
def scaled(query, factor, turn):
    """Return queries times a factor, and the same turned by a rotation, shape (head_dim, head_dim); (0, 0) for none."""
    places, rows, head_dim = query.shape
    queries = query * np.float32(factor)
    if turn.shape[0] == 0:
        return queries, queries
    turned = np.empty(query.shape, np.float32)
    for place in range(places):
        for r in range(rows):
            for i in range(head_dim):
                turned[place, r, i] = _product(queries[place, r], turn[i], head_dim)
    return queries, turned


@compiled(
    "void(int64[:, ::1], int32[::1], int64, float32[:, :, ::1], float32[:, ::1], float32[:, ::1], float32[:, :, ::1], "
    "float32[:, ::1])"
)
def merge(table, firsts, recent_pieces, partial, log_sums, turn, output, sums):
    """Weigh the results of every place's pieces by exp(their log-sum-exp); sums of what is rotated are turned back.

    Parameters
    ----------
    table, firsts : array
        Of a plan.
    recent_pieces : int
        Of each place.
    partial, log_sums : array
        As `attend_pieces` wrote them.
    turn : array
        The rotation, shape (head_dim, head_dim), or (0, 0) if nothing is rotated.
    output, sums : array
        Written: shape (places, rows, head_dim), and the log-sum-exp over all pieces, shape (places, rows).
    """
    places, rows, head_dim = output.shape
    rotated = np.empty(head_dim, np.float32)
    for place in range(places):
        held = firsts[place + 1] - firsts[place]
        for r in range(rows):
            largest, total, are_numbers = -INFINITY, np.float32(0.0), True
            for i in range(held + recent_pieces):
                at = firsts[place] + i if i < held else table.shape[0] + place * recent_pieces + i - held
                largest = log_sums[at, r] if log_sums[at, r] > largest else largest
                are_numbers = are_numbers and not np.isnan(log_sums[at, r])
            output[place, r] = np.float32(0.0)
            rotated[:] = np.float32(0.0)
            sums[place, r] = -INFINITY
            if largest == -INFINITY and are_numbers:
                continue
            for i in range(held + recent_pieces):
                at = firsts[place] + i if i < held else table.shape[0] + place * recent_pieces + i - held
                total += np.exp(log_sums[at, r] - largest)
            sums[place, r] = largest + np.log(total)
            for i in range(held + recent_pieces):
                at = firsts[place] + i if i < held else table.shape[0] + place * recent_pieces + i - held
                weight = np.exp(log_sums[at, r] - sums[place, r])
                into = rotated if i < held and table[at, VALUE_BITS] > ROTATED else output[place, r]
                for c in range(head_dim):
                    into[c] += weight * partial[at, r, c]
            for i in range(turn.shape[0]):
                for c in range(head_dim):
                    output[place, r, c] += rotated[i] * turn[i, c]


@compiled(
    "void(float32[:, :, ::1], float64, float32[:, ::1], int64[:, ::1], int32[::1], int64[::1], float32[:, ::1], "
    "int64[::1], float32[:, :, ::1], float32[:, ::1])"
)
def attend(query, factor, turn, table, firsts, recent, kept, places, output, sums):
    """Do all of it on one thread: `scaled`, `attend_pieces`, `merge`."""
    heads, rows, head_dim = query.shape
    pieces = table.shape[0] + heads * recent[PIECES]
    queries, turned = scaled(query, factor, turn)
    partial, log_sums = np.empty((pieces, rows, head_dim), np.float32), np.empty((pieces, rows), np.float32)
    attend_pieces(0, pieces, table, queries, turned, recent, partial, log_sums, kept, places)
    merge(table, firsts, recent[PIECES], partial, log_sums, turn, output, sums)


@compiled("void(float32[:, ::1], int64, int64, float32[::1], float32[::1])")
def sum_weights(kept, first, last, log_sums, received):
    """received[t - first] = Σ_r exp(logit[r, t] - log_sums[r]) for entries t of a piece.

    Parameters
    ----------
    kept : array
        Logits in powers of two, shape (rows, entries of all pieces).
    first, last : int
        The piece's entries in it, the last one excluded.
    log_sums : array
        Of the piece's place, over all its entries, shape (rows,).
    received : array
        Written: shape (last - first,).
    """
    received[:] = np.float32(0.0)
    for r in range(kept.shape[0]):
        if log_sums[r] == -INFINITY:
            continue  # it sees nothing
        whole = log_sums[r] / LN_2
        logits = kept[r, first:last]
        for t in range(last - first):
            received[t] += power_of_two(logits[t] - whole)
