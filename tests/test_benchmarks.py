"""The speed measurements run, on inputs too small to mean anything."""

from __future__ import annotations

import pytest

from benchmarks import decoding, held_bytes, prefill_cost, sharing


def test_the_cost_table(capsys):
    prefill_cost.main(tokens=128, rounds=1)
    shown = capsys.readouterr().out
    assert "MoERouterPress" in shown and "prefill of 128 tokens" in shown and "%" in shown


def test_the_sharing_table(capsys):
    sharing.main(length=256, rounds=1)
    shown = capsys.readouterr().out
    assert "10 presses at 4 ratios, one prefill" in shown and "times one press" in shown


def test_the_decoding_table(capsys):
    decoding.main(tokens=200, new=2, rounds=1)
    shown = capsys.readouterr().out
    assert all(name in shown for name in decoding.CONTENDERS) and "packing a layer at 4 bits" in shown


def test_the_table_of_bytes_held(capsys):
    held_bytes.table(tokens=1024, layers=2)
    shown = capsys.readouterr().out
    assert "seen / planned" in shown and "0.9375" in shown


def test_rounds_are_needed():
    with pytest.raises(ValueError, match="at least 1 round"):
        sharing.main(rounds=0)
