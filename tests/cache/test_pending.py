"""What has been decided but not yet done can be measured to the byte."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.pending import Pending
from pikvpress.cache.tail import DenseTail
from tests.cache.test_stretch import HEADS, dense


def pending(names, length, window=0, share=0.6, batch=1):
    kept = torch.rand(batch, HEADS, length, generator=torch.Generator().manual_seed(2)) < share
    return Pending(kept, tuple([codec(name) for name in side] for side in names), window)


@pytest.mark.parametrize(
    "names",
    [
        (("exact", "exact"), ("exact", "exact")),
        (("int8", "int8"), ("int4", "int4")),
        (("int3", "exact"), ("int2", "int8")),
        (("rank4", "rank12"), ("rank8+int2", "exact")),
    ],
)
@pytest.mark.parametrize("window", [0, 30, 500])
@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_bytes_and_counts_are_those_of_what_is_stored(names, window, cleared, share):
    names = tuple(tuple(name.replace("rank12", "rank12") for name in side) for side in names)
    entries = dense(130, batch=2)
    if cleared:  # as ThinK clears channels of keys
        entries.keys[0, 0, :, ::2] = entries.keys[1, 1, :, :3] = 0
    decided = pending(names, 130, window, share, batch=2)
    stored = decided.stored(entries, None)
    assert decided.nbytes(entries) == sum(stretch.nbytes for stretch in stored)
    assert decided.counts() == [sum(counts) for counts in zip(*(stretch.counts for stretch in stored), strict=True)]
    assert sum(stretch.length for stretch in stored) == 130


def test_a_window_stays_exact_only_where_something_is_packed():
    entries = dense(50)
    stretches = pending((("int8", "exact"),) * 2, 50, window=20).stored(entries, None)
    assert [stretch.length for stretch in stretches] == [30, 20] and stretches[1].keys.is_exact
    assert len(pending((("exact", "exact"),) * 2, 50, window=20).stored(entries, None)) == 1


def test_what_a_codec_cannot_take_is_refused_when_measured():
    odd = DenseTail(*(torch.zeros(1, HEADS, 4, 20) for _ in range(2)))
    with pytest.raises(ValueError, match="codec 'int3' packs 8 numbers into whole bytes"):
        pending((("int3", "int3"),) * 2, 4).nbytes(odd)
