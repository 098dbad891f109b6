"""How the work on a cache is cut into pieces of like size, whatever the heads' lengths."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch

from pikvpress.kernels.ragged_attention.layout import Layout

ALIGNED = 16  # bytes that one load takes at most
FEWEST = 128  # entries of a piece: fewer would not pay for merging it
ANY = -1  # how numbers are stored, where parts differ
ROTATED = 16  # added to the bits of rotated parts


class Piece(NamedTuple):
    """A row of a plan's table: entries that one program attends to, and where they lie.

    Attributes
    ----------
    place : int
        KV head, counted over the rows of the batch.
    first, last : int
        Entries of the part; at first, its first and last of all.
    key_codes, key_scales, key_zeros : int
        Addresses; of exact keys only the first means anything.
    key_row, key_width, key_bits : int
        Bytes and numbers of an entry, bits of a number; of rotated ones `ROTATED` more.
    channels : int
        Address of the list of channels, or 0.
    value_codes, value_scales, value_zeros, value_row, value_bits : int
        Likewise.
    key_block : int
        Rotated keys of a block, whose mean stands where other keys have zero points.
    key_lead, value_lead : int
        Address of the first entry of a rotated part if it is kept as it is, or 0.
    """

    place: int
    first: int
    last: int
    key_codes: int
    key_scales: int
    key_zeros: int
    key_row: int
    key_width: int
    key_bits: int
    channels: int
    value_codes: int
    value_scales: int
    value_zeros: int
    value_row: int
    value_bits: int
    key_block: int
    key_lead: int
    value_lead: int


@dataclass(frozen=True)
class Partition:
    """What a kernel needs to know of held keys and values.

    Parameters
    ----------
    layouts : tuple of weak references
        What it was made of.
    addresses : tuple of int
        Where that lay in memory: sharing a tensor with another process moves it.
    table : torch.Tensor
        A `Piece` a row, int64, on the device; those of a place follow each other.
    firsts : torch.Tensor
        Row at which each place begins, and the number of rows, int32, on the device.
    pieces : int
        Rows of the table.
    exact_align : int
        Bytes of which addresses of exact parts are multiples; 0 if there are none.
    key_bits, key_align, value_bits, value_align : int
        Of packed parts; `ANY` where bits differ. Alignments are 0 if nothing is packed.
    width_align : int
        Numbers of which widths of keys are multiples.
    has_rotated : bool
        Whether any part is rotated.
    """

    layouts: tuple[weakref.ref[Layout], ...]
    addresses: tuple[int, ...]
    table: torch.Tensor
    firsts: torch.Tensor
    pieces: int
    exact_align: int
    key_bits: int
    key_align: int
    value_bits: int
    value_align: int
    width_align: int
    has_rotated: bool

    def is_of(self, layouts: Sequence[Layout]) -> bool:
        """Return whether it was made of these very layouts, where they are now."""
        if len(layouts) != len(self.layouts) or self.addresses != _places_of(layouts):
            return False
        return all(reference() is layout for reference, layout in zip(self.layouts, layouts, strict=True))


def plan(held: Sequence[tuple[Layout, Layout]], programs: int) -> Partition:
    """Return a plan of about so many pieces at most, made when it is first asked for and kept with the layouts.

    Making it copies its table to the device; asking again costs nothing.

    Parameters
    ----------
    held : sequence of (Layout, Layout)
        Keys and values, at least one pair.
    programs : int
        That run at the same time.
    """
    layouts = [layout for pair in held for layout in pair]
    known = layouts[-1].plans  # the newest: what is replaced most often takes its plans with it
    if programs not in known or not known[programs].is_of(layouts):
        known[programs] = _made(held, layouts, programs)
    found: Partition = known[programs]
    return found


def entries_a_piece(counts: Sequence[int], programs: int, step: int) -> int:
    """Return how many entries of heads of these lengths a piece takes, a multiple of ``step``.

    Every head may end with a smaller one, so that its number is taken off the programs.
    """
    heads = sum(count > 0 for count in counts)
    wanted = -(-sum(counts) // max(programs - heads, heads, 1))
    return -(-max(FEWEST, wanted) // step) * step


def _made(held: Sequence[tuple[Layout, Layout]], layouts: Sequence[Layout], programs: int) -> Partition:
    places = range(len(layouts[0].counts))
    parts = [_part(keys, values, place) for place in places for keys, values in held]
    length = entries_a_piece([part.last for part in parts], programs, layouts[0].group)
    counts = [-(-part.last // length) for part in parts]
    firsts = [0, *accumulate(counts)]
    whole = torch.tensor(parts, dtype=torch.int64).view(len(parts), len(Piece._fields))
    table = whole.repeat_interleave(torch.tensor(counts), dim=0)
    number = torch.arange(firsts[-1]) - torch.tensor(firsts[:-1]).repeat_interleave(torch.tensor(counts))
    table[:, 1] = number * length
    table[:, 2] = torch.minimum(table[:, 1] + length, table[:, 2])
    present = [part for part in parts if part.last]
    exact = [part for part in present if not part.key_bits and not part.value_bits]
    packed = [part for part in present if part.key_bits or part.value_bits]
    device = layouts[0].buffer.device
    return Partition(
        tuple(weakref.ref(layout) for layout in layouts),
        _places_of(layouts),
        table.to(device),
        torch.tensor(firsts[:: len(held)], dtype=torch.int32, device=device),
        firsts[-1],
        exact_align=_alignment([x for part in exact for x in (*_of_keys(part), *_of_values(part))]),
        key_bits=_common([part.key_bits for part in packed]),
        key_align=_alignment([x for part in packed for x in _of_keys(part)]),
        value_bits=_common([part.value_bits for part in packed]),
        value_align=_alignment([x for part in packed for x in _of_values(part)]),
        width_align=_alignment([part.key_width for part in present]),
        has_rotated=any(max(part.key_bits, part.value_bits) > ROTATED for part in packed),
    )


def _places_of(layouts: Sequence[Layout]) -> tuple[int, ...]:
    """Return the addresses of all tensors of layouts."""
    lists = ([layout.buffer, *(live for live in layout.channels if live is not None)] for layout in layouts)
    return tuple(tensor.data_ptr() for tensors in lists for tensor in tensors)


def _part(keys: Layout, values: Layout, place: int) -> Piece:
    """Return a part as one piece."""
    count, live = keys.counts[place], keys.channels[place]
    width = keys.head_dim if live is None else len(live)
    per_key = -(-count // keys.group) * width
    per_value = count * -(-values.head_dim // values.group)
    key_row, value_row = (
        size * (side.bits[place] or 8 * side.dtype.itemsize) // 8
        for side, size in ((keys, width), (values, values.head_dim))
    )
    return Piece(
        place,
        0,
        count,
        *_addresses(keys, place, per_key, key_row),
        key_row,
        width,
        _stored_as(keys, place),
        0 if live is None else live.data_ptr(),
        *_addresses(values, place, per_value, value_row),
        value_row,
        _stored_as(values, place),
        keys.blocks[place],
        _lead(keys, place, key_row),
        _lead(values, place, value_row),
    )


def _stored_as(layout: Layout, place: int) -> int:
    return layout.bits[place] + (ROTATED if layout.blocks[place] else 0)


def _addresses(layout: Layout, place: int, scales: int, row: int) -> tuple[int, int, int]:
    """Return where a part's codes, scales, and zero points or means begin."""
    start = layout.buffer.data_ptr() + layout.starts[place]
    if not layout.bits[place]:
        return start, 0, 0
    if layout.blocks[place]:
        count = layout.counts[place]
        scales = start + count * row
        return start, scales, scales + 2 * (count + layout.leads[place] * layout.head_dim)
    return start + 4 * scales, start, start + 2 * scales


def _lead(layout: Layout, place: int, row: int) -> int:
    """Return where the first entry of a rotated part is kept as it is, or 0."""
    if not layout.leads[place]:
        return 0
    return layout.buffer.data_ptr() + layout.starts[place] + layout.counts[place] * (row + 2)


def _of_keys(part: Piece) -> tuple[int, int]:
    return part.key_codes, part.key_row


def _of_values(part: Piece) -> tuple[int, int]:
    return part.value_codes, part.value_row


def _alignment(multiples: Sequence[int]) -> int:
    return math.gcd(ALIGNED, *multiples) if multiples else 0


def _common(bits: Sequence[int]) -> int:
    return bits[0] if len(set(bits)) == 1 else ANY if bits else 0
