"""Entries on a slower tier are measured as before, and are the same when they come back."""

from __future__ import annotations

import copy
import pickle

import torch

from pikvpress.cache.tiers.away import Away
from tests.cache.tiers.cases import dense, entries, same

CPU = torch.device("cpu")


def test_it_measures_what_entries_measure():
    held, more = entries(), dense(3, 2)
    away, whole = Away("file", held, more), held.appended(more.keys, more.values)
    for name in ("are_compressed", "heads", "length", "recent", "nbytes"):
        assert getattr(away, name) == getattr(whole, name), name
    assert away.counts() == whole.counts() and away.compressed is held.compressed
    assert same(away.on(CPU), whole) and away.on(CPU).tail.known == 10


def test_nothing_is_copied_that_the_device_can_read():
    held = entries()
    found = Away("file", held, dense(0)).on(CPU)
    assert found.compressed is held.compressed and found.tail.keys is held.tail.keys
    assert Away("host", held, dense(2)).on(torch.device("meta")).tensors()[0].is_meta


def test_later_entries_follow_the_first_known_ones():
    held, more = entries(), dense(2, 3)
    away = Away("file", held, dense(0)).followed(4, more)
    assert away.recent == 6 and torch.equal(away.on(CPU).tail.keys[:, :, 4:], more.keys)


def test_copies_share_it_and_other_processes_get_it_in_memory():
    away = Away("file", entries(), dense(2, 3), release=lambda: None)
    assert copy.deepcopy(away) is away
    back = pickle.loads(pickle.dumps(away))
    assert back.tier == "host" and back.release is None and same(back.on(CPU), away.on(CPU))
