"""Presses that keep a ceiling along a continuation."""

from __future__ import annotations

import pytest

from evaluation.study import make_study

STUDY = {"benchmarks": ["continuation"], "lengths": [400], "ratios": [0.5], "output": "unused"}


def test_there_must_be_continuations():
    study = STUDY | {"presses": ["scheduled_h2o", "prefill_decoding_knorm"]}
    assert all(press.strategy.goes_on for press in make_study(study).presses)
    with pytest.raises(ValueError, match=r"scheduled_h2o compresses while .* and fidelity has none"):
        make_study(study | {"benchmarks": ["fidelity"]})


@pytest.mark.parametrize(
    ("name", "needs"),
    [("scheduled_h2o", 176), ("scheduled_h2o@codec=rot4", 246), ("scheduled_h2o@window=64", 211)],
)
def test_budgets_must_have_room_for_the_smallest_cache(name, needs):
    make_study(STUDY | {"presses": [name], "lengths": [2 * needs]})
    with pytest.raises(ValueError, match=f"ratio 0.5 leaves {needs - 1} of {2 * needs - 1} tokens, .* for {needs}"):
        make_study(STUDY | {"presses": [name], "lengths": [2 * needs - 1]})
