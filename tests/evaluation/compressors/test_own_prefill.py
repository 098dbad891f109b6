"""Presses with their own prefill, and those that need to know where the question begins."""

from __future__ import annotations

import pytest

from evaluation.compressors import OwnPrefill, SourceContext, WithQuestion
from evaluation.presses import Entry, PressSpec, parse_press
from evaluation.study import make_study
from tests.evaluation.alone import alone, assert_same

SETTINGS = {"benchmarks": ["ruler"], "lengths": [400], "presses": ["finch"], "ratios": [0.5], "output": "unused"}


def test_it_leaves_what_the_press_leaves_alone(tiny, random_context, source):
    named = parse_press("adakv_knorm")
    spec = PressSpec("adakv_knorm", Entry(named.entry.make, OwnPrefill(masks=True)), {})
    ours = spec.strategy.compress(spec, 0.25, source)
    assert_same(ours, *alone(tiny, random_context, spec.make(0.25)))
    assert ours.is_masked and ours.seconds >= 0


def test_finch_finds_the_question(tiny, tokenizer, random_context):
    source, spec = SourceContext(tiny, tokenizer, random_context, (0.5,), question_at=280), parse_press("finch")
    ours, press = spec.strategy.compress(spec, 0.5, source), spec.make(0.5)
    press.delimiter_token_id = next(i for i in range(len(tokenizer)) if i not in random_context)
    shown = [*random_context[:280], press.delimiter_token_id, *random_context[280:]]
    theirs, masks = alone(tiny, shown, press)
    assert_same(ours, theirs, masks)
    assert max(ours.lengths) < 200


def test_the_question_must_be_shown():
    assert isinstance(parse_press("finch").strategy, WithQuestion)
    with pytest.raises(ValueError, match="finch compresses for a known question: add --query-aware"):
        make_study(SETTINGS)
    assert make_study(SETTINGS | {"query_aware": True}).names == ("finch",)
