"""Shares and budgets of tiers, and which layer lies where."""

from __future__ import annotations

import os

import pytest

from pikvpress import PiKVCache
from pikvpress.cache import TIERS, Tiers


def homes(tiers, sizes):
    found = []
    for number in range(1, len(sizes) + 1):
        found.append(tiers.home(sizes[:number], found, len(sizes)))
    return found


def test_layers_of_a_tier_are_spread():
    assert homes(Tiers({"device": 0.25, "file": 0.75}), [10] * 8) == (["file"] * 3 + ["device"]) * 2
    assert homes(Tiers({"device": 0.5, "host": 0.25, "file": 0.25}), [10] * 4) == ["file", "device", "host", "device"]
    assert homes(Tiers({"device": 1}), [3, 1, 7]) == ["device"] * 3
    assert homes(Tiers({"host": 1.0}), [3, 1]) == ["host"] * 2


@pytest.mark.parametrize("sizes", [[10] * 30, [100, 1, 1, 1, 50, 3], [1, 2, 3, 4, 5, 60, 7, 8]])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_no_share_is_exceeded(sizes, share):
    by_share = homes(Tiers({"device": share, "file": 1 - share}), sizes)
    budget = int(share * sum(sizes))
    by_bytes = homes(Tiers(max_bytes={"device": budget}), sizes)
    for found in (by_share, by_bytes):
        assert sum(size for size, home in zip(sizes, found, strict=True) if home == "device") <= share * sum(sizes)


def test_the_fastest_tier_is_filled_first():
    tiers = Tiers(max_bytes={"device": 100, "host": 50})
    assert tiers.shares_of(80) == {"device": 1, "host": 0, "file": 0}
    assert tiers.shares_of(200) == {"device": 0.5, "host": 0.25, "file": 0.25}
    assert homes(tiers, [40, 40]) == ["device", "device"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "either shares or max_bytes"),
        ({"shares": {"device": 1}, "max_bytes": {"device": 1}}, ValueError, "either shares or max_bytes"),
        ({"shares": {"device": 0.5, "disk": 0.5}}, ValueError, "are of device, host, file, got 'disk'"),
        ({"shares": {"device": 0.5, "file": 0.4}}, ValueError, r"must have the sum 1, got 0\.9"),
        ({"shares": {}}, ValueError, "must have the sum 1, got 0"),
        ({"shares": {"device": 1.5, "file": -0.5}}, ValueError, "'file' must be at least 0, got -0.5"),
        ({"shares": {"device": float("nan")}}, ValueError, "'device' must be at least 0, got nan"),
        ({"shares": {"device": "all"}}, TypeError, "must be a number, got 'all'"),
        ({"shares": 0.25}, TypeError, "must map tiers to numbers, got float"),
        ({"max_bytes": {"device": -1}}, ValueError, "'device' must be at least 0, got -1"),
        ({"max_bytes": {"device": 0.25}}, TypeError, "must be a whole number, got 0.25"),
        ({"max_bytes": {"device": True}}, TypeError, "must be a whole number, got True"),
        ({"max_bytes": {"file": 10}}, ValueError, "are of device, host, got 'file'"),
        ({"shares": {"file": 1}, "folder": "/nowhere/at/all"}, ValueError, "there is no folder /nowhere/at/all"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        Tiers(**arguments)


def test_a_folder_that_is_not_writable_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match=f"{tmp_path} for a file tier is not writable"):
        Tiers({"file": 1}, folder=tmp_path)
    assert Tiers({"device": 1}, folder=tmp_path).parent == tmp_path


def test_a_cache_takes_shares_or_tiers():
    assert PiKVCache(tiers={"device": 0.25, "file": 0.75}).tiers == Tiers({"device": 0.25, "file": 0.75})
    assert PiKVCache().tiers is None and TIERS == ("device", "host", "file")
    with pytest.raises(TypeError, match="must be Tiers or a mapping of tiers to shares, got str"):
        PiKVCache(tiers="file")
    with pytest.raises(ValueError, match="got 'disk'"):
        PiKVCache(tiers={"disk": 1})


def test_they_describe_themselves():
    assert str(Tiers({"device": 0.25, "file": 0.75})) == "25% device, 75% file"
    assert str(Tiers(max_bytes={"device": 2000})) == "2,000 bytes device, the rest file"
