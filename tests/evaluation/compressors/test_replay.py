"""Presses that replay the context: with shared scores, they leave the same as on their own, at every ratio."""

from __future__ import annotations

import pytest

from evaluation.compressors import Replay
from evaluation.presses import PRESSES, parse_press
from tests.evaluation.alone import alone, assert_same


@pytest.mark.parametrize("name", [name for name, entry in PRESSES.items() if isinstance(entry.strategy, Replay)])
def test_scoring_once_serves_every_ratio(name, tiny, random_context, source, named):
    spec = parse_press(name)
    for ratio in source.ratios:
        ours = spec.strategy.compress(spec, ratio, source)
        assert_same(ours, *alone(tiny, random_context, spec.make(ratio)))
        if name != "kvcompose_unstructured":  # which keeps everything it has read twice
            assert ours.tokens_kept == pytest.approx(300 * (1 - ratio), abs=1)
        assert ours.is_masked == spec.strategy.masks
        assert spec.strategy.compress(spec, ratio, source) is ours
