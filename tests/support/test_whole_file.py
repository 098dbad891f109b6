"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import pytest

from pikvpress.support.whole_file import whole_file, whole_folder


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with whole_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before" and partial.parent == tmp_path and partial.name.startswith(".")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [True, False])
def test_after_an_error_everything_is_as_before(tmp_path, written):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        if written:
            partial.write_text("aft")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    with whole_file(tmp_path / "file") as one, whole_file(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"  # the last to finish


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_when_it_is_complete(tmp_path, is_there):
    path = tmp_path / "folder"
    if is_there:
        path.mkdir()
    with whole_folder(path) as partial:
        partial.mkdir()
        (partial / "file").write_text("whole")
        assert not (path / "file").exists() and partial.parent == tmp_path and partial.name.startswith(".")
    assert (path / "file").read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_after_an_error_nothing_is_left_of_a_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_text("ha")
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())
