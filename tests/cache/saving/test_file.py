"""Files of sections are written whole, verified in every bit, and mapped."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
import zlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pikvpress.cache.saving import file as saving_file
from pikvpress.cache.saving.file import ALIGNED, MappedFile, Pieces, well_formed, write_sections

NUMBERS = torch.arange(40, dtype=torch.float32).view(5, 8)
SECTIONS = {
    "one": [NUMBERS, torch.tensor([True, False, True]), torch.zeros(0, dtype=torch.uint8)],
    "two": [NUMBERS.bfloat16().T, torch.arange(100, dtype=torch.int16)],
    "none": [],
}
CONTENTS = {"about": "numbers \u2013 and more", "list": [1, None]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.safetensors"
    write_sections(path, SECTIONS, CONTENTS)
    return path


def verified(path):
    file = MappedFile(path)
    for section in file.sections:
        file.verify(section)
    return file


def test_what_is_written_is_read(path):
    file = verified(path)
    assert file.contents == CONTENTS and file.sections == [*SECTIONS]
    for section, tensors in SECTIONS.items():
        pieces = Pieces(file, section)
        for tensor in tensors:
            found = pieces.take(tensor.dtype, *tensor.shape)
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)
            assert found.data_ptr() % ALIGNED == 0 and found.untyped_storage().nbytes() == tensor.nbytes
        pieces.finish()
    assert [*path.parent.iterdir()] == [path]


def test_memory_is_let_go_and_read_again(tmp_path):
    path = tmp_path / "file"
    write_sections(path, SECTIONS, CONTENTS, is_durable=False)
    file = verified(path)
    found = Pieces(file, "one").take(NUMBERS.dtype, *NUMBERS.shape)
    file.read_ahead()
    file.release()
    assert torch.equal(found, NUMBERS)


def test_the_library_reads_it_too(path):
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["contents"]) == CONTENTS
    tensors = load_file(path)
    assert torch.equal(tensors["one"][: 4 * NUMBERS.numel()].view(torch.float32).view(5, 8), NUMBERS)
    assert set(tensors) == set(SECTIONS) and len(tensors["none"]) == 0


def test_the_same_contents_are_the_same_bytes(path, tmp_path):
    write_sections(tmp_path / "again", SECTIONS, CONTENTS)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_every_flipped_bit_is_found(path):
    stored = path.read_bytes()
    assert len(stored) > 1200
    for bit in [*range(128), *range(128, 8 * len(stored), 13)]:
        altered = bytearray(stored)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=str(path)):
            verified(path)


def test_every_truncation_and_every_addition_is_found(path):
    stored = path.read_bytes()
    for size in (0, 5, 8, 100, len(stored) - 64, len(stored) - 1):
        path.write_bytes(stored[:size])
        with pytest.raises(ValueError, match=str(path)):
            MappedFile(path)
    path.write_bytes(stored + b"\0")
    with pytest.raises(ValueError, match=f"has {len(stored) + 1} bytes, not the {len(stored)} that were saved"):
        MappedFile(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"text of more than eight letters", "is not a saved cache"),
        (b"\x02\0\0\0\0\0\0\0[]", "is not a saved cache"),
        (b"\xff" * 100, "is not a saved cache"),
        (b"\x88\x13\0\0\0\0\0\0" + b"[" * 5000, "is not a saved cache"),
    ],
)
def test_foreign_files_are_refused(tmp_path, contents, message):
    path = tmp_path / "foreign"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        MappedFile(path)


def test_other_safetensors_files_are_refused(tmp_path):
    path = tmp_path / "other"
    save_file({"a": NUMBERS}, path)
    with pytest.raises(ValueError, match="is not a saved cache"):
        MappedFile(path)
    save_file({"a": NUMBERS}, path, {"format": "pikvpress-bases-1"})
    with pytest.raises(ValueError, match="its format is 'pikvpress-bases-1', expected 'pikvpress-cache-2'"):
        MappedFile(path)


def test_a_newer_format_asks_for_an_update(tmp_path, monkeypatch):
    monkeypatch.setattr(saving_file, "VERSION", 12)
    write_sections(tmp_path / "newer", SECTIONS, CONTENTS)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"in format 12; this version reads formats up to 2: update pikvpress"):
        MappedFile(tmp_path / "newer")


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved cache at"):
        MappedFile(tmp_path)
    with pytest.raises(IsADirectoryError, match="is a folder: pass the path of a file in it"):
        write_sections(tmp_path, SECTIONS, CONTENTS)
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_sections(tmp_path / "none/file", SECTIONS, CONTENTS)


class Full:
    """A tensor in whose place the disk is found full."""

    nbytes = 64

    def detach(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", [0, 1])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(path, place):
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"No space left on device \(nothing was saved\)") as raised:
        write_sections(path, {"one": [NUMBERS, Full()][place:]}, CONTENTS)
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(path)
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


def test_any_other_error_does_too(path):
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_sections(path, {"one": [None]}, CONTENTS)
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied only on POSIX")
def test_a_killed_process_leaves_a_whole_file(path):
    large = torch.arange(500_000)
    versions = [{"one": [large + number]} for number in range(2)]
    write_sections(path, versions[0], {"version": 0})
    for delay in range(12):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for number, sections in enumerate(versions):
                        write_sections(path, sections, {"version": number})
            finally:
                os._exit(1)  # the tests go on in the parent only
        time.sleep(0.003 * (delay + 1))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        file = verified(path)
        found = file.tensor("one", 0, torch.int64, [500_000])
        assert torch.equal(found, versions[file.contents["version"]]["one"][0])


def test_a_file_may_be_replaced_while_it_is_mapped(path):
    piece = MappedFile(path).tensor("one", 0, torch.float32, [5, 8])
    write_sections(path, {"one": [NUMBERS + 1]}, CONTENTS)
    assert torch.equal(piece, NUMBERS)
    assert torch.equal(MappedFile(path).tensor("one", 0, torch.float32, [5, 8]), NUMBERS + 1)


def test_changing_a_piece_does_not_change_the_file(path):
    before = path.read_bytes()
    MappedFile(path).tensor("one", 0, torch.float32, [5, 8]).zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyError("wrong"), zlib.error("wrong")])
def test_nonsense_is_one_error_that_names_the_file(path, error):
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: .*wrong"), well_formed(path):
        raise error


def test_pieces_end_where_the_section_does(path):
    file = MappedFile(path)
    with pytest.raises(ValueError, match=r"two in .* is smaller than the file says"):
        file.tensor("two", 0, torch.float32, [1000])
    with pytest.raises(ValueError, match="smaller"):
        file.tensor("two", 0, torch.float32, [-1])
    pieces = Pieces(file, "two")
    pieces.take(torch.bfloat16, 8, 5)
    with pytest.raises(ValueError, match=r"two in .* is larger than the file says"):
        pieces.finish()


def test_files_are_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        write_sections(tmp_path / "file", SECTIONS, CONTENTS)
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
