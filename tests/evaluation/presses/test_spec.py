"""Presses as typed on the command line."""

from __future__ import annotations

import pytest

from evaluation.presses import parse_press


def test_what_was_typed_stays_the_name():
    spec = parse_press("snapkv@window_size=16")
    assert (spec.name, spec.options, spec.has_ratio) == ("snapkv@window_size=16", {"window_size": 16}, True)
    assert not parse_press("kvzap_mlp@threshold=-4").has_ratio
    assert parse_press("kvzap_mlp@threshold=-4").make(None).threshold == -4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("snapvk", "did you mean snapkv"),
        ("nothing_like_it", "known are .*adakv_compactor"),
        ("snapkv@window=3", "did you mean window_size"),
        ("snapkv@window_size", "write snapkv@option=value"),
        ("snapkv@window_size=[1", "cannot be parsed"),
        ("snapkv@compression_ratio=0.3", "set by --ratio"),
        ("kvzap_mlp", "write kvzap_mlp@threshold="),
        ("moe_router@router_type=best", "known are base"),
        ("moe_router@top_k=9", "more experts than the 6"),
        ("adakv_knorm@alpha_safeguard=2", "cannot be created"),
        ("no_press@a=1", "no settings"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        parse_press(name)


def test_a_bad_ratio_names_the_press():
    with pytest.raises(ValueError, match="knorm"):
        parse_press("knorm").make(1.5)
