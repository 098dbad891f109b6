"""Compressed entries at other positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress import models, rotary
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.entries import Entries
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.stretch import Stretch


@dataclass(frozen=True, eq=False)
class Decoded:
    """A stretch of one sequence, decoded.

    Parameters
    ----------
    keys, values : tuple of torch.Tensor
        Of each KV head, shape (entries, head_dim).
    codecs : pair of tuples of Codec
        How keys and values of each head are stored.
    length : int
        Number of tokens, including those that were removed.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    codecs: tuple[tuple[Codec, ...], tuple[Codec, ...]]
    length: int


def decoded(entries: Entries) -> list[Decoded]:
    """Return all entries of a layer that holds one sequence, the oldest first."""
    found = []
    for stretch in entries.compressed.stretches:
        sides = [tuple(side.part(head) for head in range(len(side.counts))) for side in (stretch.keys, stretch.values)]
        found.append(Decoded(sides[0], sides[1], stretch.codecs, stretch.length))
    tail = entries.tail
    if tail.length:
        exact = (EXACT,) * tail.keys.shape[1]
        found.append(Decoded(tuple(tail.keys[0]), tuple(tail.values[0]), (exact, exact), tail.length))
    return found


def moved(
    stretches: Sequence[Decoded], kept: Sequence[torch.Tensor], attention: models.Attention, offset: int, length: int
) -> tuple[Stretch, ...]:
    """Return some of the entries at later positions, in the codecs that they had.

    Keys are rotated in float32 and encoded again. Stored exactly, they lose no more than their rounding; in a codec
    they are quantised a second time, because scales by channel and codes of rotated vectors cannot be turned as they
    are stored.

    Parameters
    ----------
    stretches : sequence of Decoded
        The entries.
    kept : sequence of torch.Tensor
        For each head, which of all its entries to keep, bool, shape (entries,).
    attention : Attention
        The module that reads them, with its rotary embedding.
    offset : int
        How many positions later they will be.
    length : int
        Number of tokens that the stretches stand for from now on.
    """
    taken, left = [0] * len(kept), length
    lengths = []
    for stretch in reversed(stretches):
        lengths.append(min(stretch.length, left))
        left -= lengths[-1]
    lengths[-1] += left  # presses that shorten all heads alike leave fewer entries than there were tokens
    results = []
    for stretch, tokens in zip(stretches, reversed(lengths), strict=True):
        keys, values = [], []
        for head, (own_keys, own_values) in enumerate(zip(stretch.keys, stretch.values, strict=True)):
            mine = kept[head][taken[head] : taken[head] + len(own_keys)]
            taken[head] += len(own_keys)
            keys.append(own_keys[mine])
            values.append(own_values[mine])
        turned = rotary.moved(attention, torch.cat(keys)[None, None], offset)[0, 0]
        keys = list(turned.split([len(rows) for rows in keys]))
        sides = Ragged.store(keys, stretch.codecs[0], True), Ragged.store(values, stretch.codecs[1], False)
        results.append(Stretch(*sides, tokens))
    return tuple(results)
