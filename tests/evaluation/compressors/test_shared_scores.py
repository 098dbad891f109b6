"""Scores that do not depend on the ratio are computed once."""

from __future__ import annotations

import pytest
import torch

from evaluation.compressors import SharedScores
from evaluation.presses import PRESSES, parse_press
from tests.evaluation.alone import entries
from tests.evaluation.test_compressed import SHARING


@pytest.mark.parametrize("name", [name for name in SHARING if PRESSES[name].strategy.scores_once])
def test_scores_of_one_ratio_serve_the_others(name, source, named):
    scores, spec, shared = SharedScores(), parse_press(name), source.prefilled
    for ratio in (0.75, 0.25):
        once, anew = shared.compress(spec.make(ratio), scores), shared.compress(spec.make(ratio))
        for (keys, values), (their_keys, their_values) in zip(once.layers, anew.layers, strict=True):
            assert torch.equal(keys, their_keys) and torch.equal(values, their_values)
        assert [entries(m) for m in once.masked] == [entries(m) for m in anew.masked]
        assert once.tokens_kept == pytest.approx(300 * (1 - ratio), abs=1)
        assert (scores.seconds_saved > 0) == (ratio == 0.25)


def test_the_press_keeps_its_own_way_of_scoring():
    press = parse_press("adakv_snapkv").make(0.5)
    with SharedScores().of(press):
        assert "score" in vars(press.press)
    assert "score" not in vars(press.press) and "score" not in vars(press)
