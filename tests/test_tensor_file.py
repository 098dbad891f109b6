"""Files of tensors must be complete, unaltered, and of the requested kind."""

from __future__ import annotations

import pytest
import torch

from pikvpress.tensor_file import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.zeros(0, dtype=torch.int8)}


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"format": "one", "about": "x"})
    tensors, about = read_tensors(path, "test", "one")
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS) and about["about"] == "x"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"format": "one"})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, TENSORS, {"format": 1})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="no test file at"):
        read_tensors(path, "test", "one")
    write_tensors(path, TENSORS, {"format": "two"})
    with pytest.raises(ValueError, match="its format is 'two', expected 'one'"):
        read_tensors(path, "test", "one")
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1
    path.write_bytes(stored)
    with pytest.raises(ValueError, match="has been altered since it was written"):
        read_tensors(path, "test", "two")
    path.write_bytes(stored[:-5])
    with pytest.raises(ValueError, match="is not a complete test file"):
        read_tensors(path, "test", "two")
