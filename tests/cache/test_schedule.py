"""Schedules: settings that do not fit are refused before anything changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kvpress import DecodingPress, KnormPress, PrefillDecodingPress

from pikvpress import models
from pikvpress.cache.history import Step
from pikvpress.cache.schedule import Schedule, schedule_for
from pikvpress.schedulers import H2OScheduler

NONE = {"max_tokens": None, "max_bytes": None, "ratio": None}


def made(choice="h2o", before=None, module=None, **limits):
    return schedule_for(choice, NONE | limits, 128, before, module)


def test_a_ceiling_stays_until_another_is_given():
    first = made(max_tokens=500)
    assert isinstance(first, Schedule) and isinstance(first.scheduler, H2OScheduler)
    assert made("lru", first).ceiling is first.ceiling
    assert made("lru", first, ratio=0.5).ceiling.kind == "ratio"
    assert str(made("lru", first)) == "lru: at most 500 entries a head"


def test_history_goes_on_in_a_copy():
    first = made(max_tokens=500)
    step = Step(0, 100, "h2o", (80, 90), (4, 2))
    first.history.add(step)
    second = made("lru", first)
    assert second.history.steps == [step] and second.history is not first.history


def test_what_is_missing():
    assert made(None) is None
    with pytest.raises(ValueError, match="a ceiling needs a scheduler to keep it: name one"):
        made(None, max_tokens=500)
    with pytest.raises(ValueError, match="a ceiling is one of max_tokens, max_bytes, ratio, got none"):
        made()
    with pytest.raises(ValueError, match=r"below the smallest cache, 256 \(window 128"):
        made(max_tokens=255)


def test_models_with_sliding_windows_are_refused(llama):
    module = models.attention_layers(llama)[0]
    assert made(max_tokens=500, module=module).layers == 2
    config = SimpleNamespace(layer_types=["full_attention", "sliding_attention"], num_hidden_layers=2)
    with pytest.raises(ValueError, match="layers with sliding-window attention"):
        made(max_tokens=500, module=SimpleNamespace(config=config, layer_idx=0))


def test_presses_that_decide_too_are_refused(llama):
    schedule, module = made(max_tokens=500), models.attention_layers(llama)[0]
    press = KnormPress(0.5)
    with press(llama):
        schedule.check_presses(module, prompt=False)
        with pytest.raises(ValueError, match="KnormPress and scheduler 'h2o' would both decide"):
            schedule.check_presses(module, prompt=True)
    decoding = DecodingPress(base_press=KnormPress())
    both = PrefillDecodingPress(prefilling_press=press, decoding_press=decoding)
    for later in (decoding, both):
        with later(llama), pytest.raises(ValueError, match="would both decide"):
            schedule.check_presses(module, prompt=False)
    with PrefillDecodingPress(prefilling_press=press)(llama):
        schedule.check_presses(module, prompt=False)


def test_what_was_not_recorded_is_said(caplog):
    first = made(max_tokens=500)
    made("adakv", first).announce(first)
    assert not caplog.text  # both record the same
    made("lru_plus", first).announce(first)
    assert "'lru_plus' begins to record last and uses now" in caplog.text


@pytest.mark.parametrize(("part", "setting"), [("bounded logits", "attn_logit_softcapping"), ("sinks", "sinks")])
def test_attention_that_would_be_left_out_is_refused(part, setting, llama):
    schedule, module = made(max_tokens=500), models.attention_layers(llama)[0]
    llama.config._attn_implementation = "eager"
    setattr(module if setting == "sinks" else llama.config, setting, 30.0)
    with pytest.raises(ValueError, match=f"attention with {part}, which scheduler 'h2o' would leave out"):
        schedule.meet(module)
    assert not schedule.met and schedule.layers is None
    if setting != "sinks":
        llama.config._attn_implementation = "sdpa"  # which does not bound them
        schedule.meet(module)
