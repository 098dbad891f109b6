"""The contents of a layer, as an immutable value."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.entries import Entries
from pikvpress.cache.pending import Pending
from tests.cache.test_stretch import HEADS, dense

INT8 = ([codec("int8")] * HEADS, [codec("int8")] * HEADS)


def compressed(context=20, after=0):
    """Return entries whose context has lost half its tokens, followed by dense ones."""
    kept = torch.arange(context).expand(1, HEADS, context) % 2 == 0
    entries = Entries(dense(context)).after(Pending(kept, INT8, window=4), layer=None)
    following = dense(after, seed=1)
    return entries.appended(following.keys, following.values)


def test_a_compressed_context_goes_by_the_length_that_it_had():
    entries = compressed(after=3)
    assert entries.are_compressed and (entries.length, entries.new_length, entries.tail.length) == (23, 3, 3)
    assert entries.counts() == [13, 13]
    assert entries.nbytes == entries.tail.nbytes + entries.compressed.nbytes
    assert not Entries().are_compressed and Entries().length == Entries().nbytes == 0


def test_groups_are_packed_and_cropped():
    entries = compressed(after=150)
    packed = entries.packed(128, INT8, layer=None)
    assert (packed.compressed.decoded_length, packed.tail.length, packed.length) == (128, 22, entries.length)
    assert packed.counts() == entries.counts() and packed.nbytes < entries.nbytes
    assert [packed.cropped(length).tail.length for length in (160, 130, 100, 20)] == [12, 46, 16, 0]
    assert packed.cropped(160).nbytes < packed.nbytes


def test_rows_and_devices():
    entries = compressed(after=3)
    twice = entries.rows(torch.tensor([0, 0])).to("cpu")
    assert twice.counts() == [13] * 4 and twice.length == entries.length
    assert torch.equal(twice.tail.keys[1], entries.tail.keys[0])


def test_how_much_a_crop_leaves():
    entries = compressed(after=10)
    assert [entries.length_after_crop(wanted) for wanted in (0, 20, 25, 99, -10, -30)] == [0, 20, 25, 30, 20, 0]
    with pytest.raises(ValueError, match="has 30 entries, so 31 of them cannot be removed"):
        entries.length_after_crop(-31)
    with pytest.raises(ValueError, match="compressed context of 20 entries and cannot be cropped to 19"):
        entries.length_after_crop(19)
