"""Measures and their labels."""

from __future__ import annotations

from evaluation.schema import Measure


def test_percent_is_read_from_the_label() -> None:
    assert Measure("found", "found (%)", True).percent
    assert not Measure("kl", "KL (nats/token)", False).percent
