"""One eager prefill serves a press that reads attention weights, at every ratio."""

from __future__ import annotations

from evaluation.presses import parse_press
from pikvpress import models
from tests.evaluation.alone import alone, assert_same


def test_it_leaves_what_the_press_leaves_alone(tiny, random_context, source):
    spec = parse_press("observed_attention")
    for ratio in source.ratios:
        ours = spec.strategy.compress(spec, ratio, source)
        assert tiny.config._attn_implementation == "sdpa"
        with models.attention_mode(tiny, "eager"):
            theirs = alone(tiny, random_context, spec.make(ratio))
        assert_same(ours, *theirs)
        assert spec.strategy.compress(spec, ratio, source) is ours
