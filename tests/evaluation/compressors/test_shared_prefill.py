"""Presses that act after attention."""

from __future__ import annotations

import gc
import weakref

import pytest

from evaluation.compressors import PrefilledContext, SourceContext
from evaluation.presses import parse_press
from tests.evaluation.alone import alone, assert_same


@pytest.mark.parametrize("name", ["snapkv", "adakv_knorm", "moe_router"])
@pytest.mark.parametrize("shared", [True, False])
def test_it_leaves_what_the_press_leaves_alone(name, shared, tiny, tokenizer, random_context):
    source, spec = SourceContext(tiny, tokenizer, random_context, (0.25, 0.75), share_prefill=shared), parse_press(name)
    for ratio in source.ratios:
        ours = spec.strategy.compress(spec, ratio, source)
        assert_same(ours, *alone(tiny, random_context, spec.make(ratio)))


@pytest.mark.parametrize(("name", "times"), [("snapkv", 1), ("adakv_snapkv", 1), ("compactor", 2)])
def test_a_press_scores_once_if_its_scores_serve_every_ratio(name, times, tiny, tokenizer, random_context, monkeypatch):
    spec = parse_press(name)
    press = spec.make(0.5)
    scorer, scored = type(getattr(press, "press", press)), []
    score = scorer.score

    def counted(self, module, *rest):
        scored.append(module.layer_idx)
        return score(self, module, *rest)

    monkeypatch.setattr(scorer, "score", counted)
    source = SourceContext(tiny, tokenizer, random_context, (0.25, 0.75))
    for ratio in source.ratios:
        spec.strategy.compress(spec, ratio, source)
    assert scored == [0, 1] * times


def test_without_sharing_nothing_is_taken_from_the_one_prefill(tiny, tokenizer, random_context, monkeypatch):
    source, spec = SourceContext(tiny, tokenizer, random_context, (0.5,), share_prefill=False), parse_press("knorm")
    monkeypatch.delattr(PrefilledContext, "compress")
    assert spec.strategy.compress(spec, 0.5, source).tokens_kept == 150


@pytest.mark.parametrize("shared", [True, False])
def test_hidden_states_are_kept_for_presses_that_share_the_prefill_only(shared, tiny, tokenizer, random_context):
    seen = []

    def look(module, args, kwargs):
        seen.append(weakref.ref(kwargs["hidden_states"]))

    handle = tiny.model.layers[0].self_attn.register_forward_pre_hook(look, with_kwargs=True)
    source = SourceContext(tiny, tokenizer, random_context, (0.5,), share_prefill=shared)
    handle.remove()
    gc.collect()
    assert len(seen) == 1 and (seen[0]() is not None) == shared
    assert source.full.tokens_kept == len(random_context)
