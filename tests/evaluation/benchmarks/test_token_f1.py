"""F1 of shared words, computed by hand."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.token_f1 import english_f1, normalized, normalized_chinese, token_f1


def test_f1():
    assert token_f1("a b b c".split(), "b b d".split()) == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert token_f1(["a"], ["b"]) == 0 and token_f1([], []) == 0


def test_articles_case_and_marks_do_not_count():
    assert normalized("The  Cat, (an) A.B.") == "cat ab" and english_f1("The cat.", "a CAT") == 1


def test_chinese_marks_but_the_opening_one_do_not_count():
    assert normalized_chinese("《你 好》。A!") == "《你好a"
