"""Texts to calibrate on."""

from __future__ import annotations

import pytest

from pikvpress.calibration.data.texts import read_texts, shipped_texts, split


def test_texts(tmp_path):
    shipped = shipped_texts()
    assert len(shipped) == 96 and all(len(text) > 6000 for text in shipped)
    fit, held = split(shipped, 4)
    assert len(fit) == 72 and len(held) == 24 and not set(fit) & set(held)
    fit, held = split(["abcd" * 10], 4)
    assert (fit, held) == (["abcd" * 7 + "ab"], ["cd" + "abcd" * 2])
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe\xff")
    assert read_texts([tmp_path]) == ["first", "second"]
    with pytest.raises(FileNotFoundError, match="there is no text at"):
        read_texts([tmp_path / "missing"])
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_texts([tmp_path / "c.bin"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no \.txt or \.md file"):
        read_texts([tmp_path / "empty"])
