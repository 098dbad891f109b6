"""ROUGE: figures computed by hand, and texts without words."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.rouge import rouge


def test_figures_worked_out_by_hand():
    found = rouge("the cat sat", "the cat ran away")
    assert found["rouge-1"]["r"] == pytest.approx(2 / 4) and found["rouge-1"]["p"] == pytest.approx(2 / 3)
    assert found["rouge-2"]["r"] == pytest.approx(1 / 3) and found["rouge-l"]["r"] == pytest.approx(2 / 4)


def test_sides_without_words_have_none():
    assert rouge("", "a") is None and rouge("a", "") is None
