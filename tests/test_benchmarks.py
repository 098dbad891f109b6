"""The benchmarks run, on samples too small to mean anything, and their samples are what they say."""

import pytest

from benchmarks import fidelity, prefill_cost
from benchmarks.tasks import KINDS, SampleMaker


@pytest.fixture(scope="module")
def maker(smollm):
    return SampleMaker(smollm[1], 300, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_their_length_and_hold_their_answer(smollm, maker, kind):
    sample = maker.make(kind)
    assert sample.kind == kind
    assert 285 <= len(sample.context) <= 300
    assert len(sample.future) > 10
    context, future = smollm[1].decode(sample.context), smollm[1].decode(sample.future)
    if kind in ("needle", "several needles"):
        number = future.split(" is ")[-1].rstrip(".")
        assert number.isdigit() and number in context
        assert context.count("The special number of the") == (1 if kind == "needle" else 4)
    if kind == "key-value":
        assert future.split("assistant\n")[-1] in context


def test_samples_repeat_by_seed(smollm):
    one, same, other = (SampleMaker(smollm[1], 200, seed).make("needle") for seed in (4, 4, 5))
    assert one == same and one != other


def test_the_fidelity_table(monkeypatch, capsys):
    monkeypatch.setattr(fidelity, "RATIOS", (0.5, 0.75))
    fidelity.main(samples=5, tokens=150)
    shown = capsys.readouterr().out
    assert "router pikv by its prior, relative to the best single default expert" in shown
    assert "5 contexts of 150 tokens" in shown


def test_the_cost_table(capsys):
    prefill_cost.main(tokens=128, rounds=1)
    shown = capsys.readouterr().out
    assert "MoERouterPress" in shown and "prefill of 128 tokens" in shown and "%" in shown


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 5 samples"):
        fidelity.main(samples=3)
