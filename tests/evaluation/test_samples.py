"""Samples in plain journals and in one packed file."""

from __future__ import annotations

import pytest

from evaluation.samples import PACKED, compressed, content, sample_files


def test_the_packed_file_comes_first_then_the_journals_in_order(tmp_path):
    for name in ("samples-1.jsonl", PACKED, "samples-0.jsonl", "report.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in sample_files(tmp_path)] == [PACKED, "samples-0.jsonl", "samples-1.jsonl"]


def test_what_is_compressed_comes_back(tmp_path):
    lines = b'{"a": 1}\n{"b": 2}\n' * 50
    (tmp_path / PACKED).write_bytes(compressed(lines))
    assert content(tmp_path / PACKED) == lines and len(compressed(lines)) < len(lines) / 5


@pytest.mark.parametrize("damage", [b"", b"not gzip at all", compressed(b"line\n" * 99)[:-9]])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / PACKED).write_bytes(damage)
    with pytest.raises(ValueError, match=rf"{PACKED} is damaged"):
        content(tmp_path / PACKED)
