"""Entries, which describe presses."""

from __future__ import annotations

import kvpress as kv

from evaluation.compressors import SharedPrefill
from evaluation.presses.entry import TOKENS, Entry


def test_by_default_a_press_acts_after_attention_and_removes_tokens():
    entry = Entry(kv.KnormPress)
    assert (entry.strategy, entry.ratio_of, entry.required) == (SharedPrefill(), TOKENS, ())


def test_keyword_arguments_without_a_default_are_settings_that_must_be_given():
    def make(*, threshold, size=3):
        return kv.KnormPress()

    assert Entry(make).required == ("threshold",)
