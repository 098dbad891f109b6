"""Ceilings: what is checked, and how many entries they leave room for."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.ceiling import Ceiling, Cost

PAGE = 64


def cost(codecs=("exact", "exact"), layers=2, parts=4):
    pair = (codec(codecs[0]), codec(codecs[1]))
    return Cost(layers, parts, 16, torch.float32, [pair, pair], (8, 8), fixed=100)


def test_tokens_leave_room_for_the_window_and_a_page():
    assert Ceiling(max_tokens=1000).quota(window=128, left=5000, fixed=0, cost=None) == 1000 - 128 - PAGE
    assert Ceiling(max_tokens=1000).quota(window=128, left=5000, fixed=300, cost=None) == 1000 - 128 - PAGE - 300


def test_a_ratio_counts_recent_entries_when_the_next_page_leaves():
    for left in (0, 64, 640, 6400):
        stored = Ceiling(ratio=0.75).quota(window=32, left=left, fixed=0, cost=None)
        total = left + 32 + PAGE
        assert stored + 32 + PAGE == max(total // 4, 32 + 2 * PAGE)
    assert Ceiling(ratio=0).quota(window=32, left=640, fixed=0, cost=None) == 640


def test_bytes_are_used_up_but_not_exceeded():
    for codecs in (("exact", "exact"), ("int4", "int4"), ("int8", "exact"), ("rot3", "rot2")):
        costs = cost(codecs)
        for max_bytes in (200_000, 300_000, 1_000_000):
            quota = Ceiling(max_bytes=max_bytes).quota(window=0, left=0, fixed=0, cost=costs)
            assert costs.layers * costs.total(quota, PAGE) <= max_bytes < costs.layers * costs.total(quota + 1, PAGE)


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 500, "ratio": 0.5}])
def test_one_ceiling_is_needed(limits):
    with pytest.raises(
        ValueError, match=r"a ceiling is one of max_tokens, max_bytes, ratio, got (none|max_tokens and ratio)"
    ):
        Ceiling(**limits)


def test_bad_numbers():
    with pytest.raises(ValueError, match=r"ratio is the share of entries to remove and must be in \[0, 1\), got 1"):
        Ceiling(ratio=1)
    with pytest.raises(TypeError, match=r"max_tokens must be a whole number, got 1\.5"):
        Ceiling(max_tokens=1.5)
    with pytest.raises(TypeError, match="ratio must be a number, got 'half'"):
        Ceiling(ratio="half")


def test_the_smallest_cache_is_named():
    with pytest.raises(ValueError, match=r"max_tokens=255 .* below the smallest cache, 256 \(window 128 \+ .* of 64\)"):
        Ceiling(max_tokens=255).quota(window=128, left=0, fixed=0, cost=None)
    with pytest.raises(ValueError, match="300 of the compressed context"):
        Ceiling(max_tokens=555).quota(window=128, left=0, fixed=300, cost=None)
    smallest = cost().smallest(PAGE)
    with pytest.raises(ValueError, match=f"max_bytes={smallest - 1} is below the smallest cache, {smallest}"):
        Ceiling(max_bytes=smallest - 1).quota(window=0, left=0, fixed=0, cost=cost())
    assert Ceiling(max_bytes=smallest + 1).quota(window=0, left=0, fixed=0, cost=cost()) >= PAGE


def test_ceilings_in_words():
    assert [str(Ceiling(max_tokens=9)), str(Ceiling(max_bytes=9000)), str(Ceiling(ratio=0.5))] == [
        "at most 9 entries a head",
        "at most 9,000 bytes",
        "50% of the entries removed",
    ]
