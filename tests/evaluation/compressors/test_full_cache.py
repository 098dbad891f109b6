"""Nothing is removed, and nothing happens while an answer is generated."""

from __future__ import annotations

from evaluation.presses import FULL_CACHE, parse_press


def test_everything_stays(source):
    spec = parse_press(FULL_CACHE)
    assert spec.strategy.compress(spec, 0.0, source) is source.full
    assert spec.strategy.while_answering(spec, 0.0) is None and not spec.has_ratio
