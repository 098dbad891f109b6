"""The steps that every context goes through."""

from __future__ import annotations

from types import SimpleNamespace

from evaluation.presses import FULL_CACHE, parse_press
from evaluation.runner import jobs


def test_the_full_cache_comes_first_and_presses_without_a_ratio_run_once():
    presses = [parse_press(name) for name in ("knorm", "kvcompose", "snapkv")]
    with_ratio = [press for press in presses if press.has_ratio]
    found = [(press.name, ratio) for press, ratio in jobs(SimpleNamespace(presses=presses, ratios=[0.25, 0.5]))]
    assert found[0] == (FULL_CACHE, 0.0)
    once = [(press.name, None) for press in presses if not press.has_ratio]
    assert found[1:] == once + [(press.name, ratio) for ratio in (0.25, 0.5) for press in with_ratio]
