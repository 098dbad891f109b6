"""The compressed context, and what was packed after it."""

from __future__ import annotations

import torch

from pikvpress.cache.compressed import Compressed
from tests.cache.test_stretch import dense, whole


def test_lengths_counts_and_bytes_are_sums():
    context, after = whole(dense(10)), whole(dense(64, seed=1))
    compressed = Compressed((context,)).followed_by(after)
    assert compressed.stretches == (context, after)
    assert (compressed.context_length, compressed.decoded_length) == (10, 64)
    assert compressed.counts(2) == [74, 74] and Compressed().counts(2) == [0, 0]
    assert compressed.nbytes == context.nbytes + after.nbytes


def test_what_follows_is_joined():
    first, second = dense(64), dense(128, seed=1)
    compressed = Compressed((whole(dense(5)),)).followed_by(whole(first)).followed_by(whole(second))
    both = whole(first.appended(second.keys, second.values))
    assert compressed.decoded_length == 192 and torch.equal(compressed.decoded.keys.buffer, both.keys.buffer)


def test_rows_are_taken_of_all_stretches():
    compressed = Compressed((whole(dense(5, batch=2)),)).followed_by(whole(dense(64, batch=2)))
    taken = compressed.select([2, 3, 0, 1, 0, 1]).each(torch.clone)
    assert taken.counts(6) == [69] * 6 and taken.context_length == 5
    assert torch.equal(taken.decoded.keys.part(0), compressed.decoded.keys.part(2))
    assert Compressed((whole(dense(5, batch=2)),)).select([2, 3]).decoded is None


def test_a_group_that_is_not_full_any_more_is_unpacked():
    compressed = Compressed((whole(dense(5)),)).followed_by(whole(dense(128)))
    left, rest = compressed.cropped(100, batch=1)
    assert (left.decoded_length, rest.length) == (64, 36)
    assert torch.equal(rest.keys[0, 1], compressed.decoded.keys.part(1)[64:100])
    left, rest = compressed.cropped(20, batch=1)
    assert left.decoded is None and rest.length == 20 and compressed.decoded_length == 128
