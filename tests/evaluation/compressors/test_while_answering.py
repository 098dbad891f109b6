"""Presses that compress while an answer is generated."""

from __future__ import annotations

import kvpress as kv
import pytest

from evaluation.presses import parse_press
from evaluation.study import make_study


def test_the_context_is_whole_and_the_press_goes_on(source):
    spec = parse_press("decoding_knorm@target_size=64")
    assert spec.strategy.compress(spec, None, source) is source.full
    press = spec.strategy.while_answering(spec, None)
    assert isinstance(press, kv.DecodingPress) and press.target_size == 64 and not spec.has_ratio


def test_there_must_be_answers():
    settings = {"benchmarks": ["fidelity"], "lengths": [400], "presses": ["decoding_knorm"], "output": "unused"}
    with pytest.raises(ValueError, match="decoding_knorm compresses while answering"):
        make_study(settings)
    assert make_study(settings | {"benchmarks": ["ruler"]}).names == ("decoding_knorm",)
