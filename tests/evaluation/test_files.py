"""Files are complete or absent."""

from __future__ import annotations

import pytest

from evaluation.files import write_whole


def test_text_and_bytes_are_written_into_new_folders(tmp_path):
    path = tmp_path / "new" / "file"
    assert write_whole(path, "ä") == path and path.read_bytes() == "ä".encode()
    write_whole(path, b"12")
    assert path.read_bytes() == b"12" and [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(TypeError):
        write_whole(path, 3)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
