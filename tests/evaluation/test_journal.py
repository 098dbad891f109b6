"""Finished samples survive whatever happens to the process or the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.journal import Journal, pack
from evaluation.samples import content


def record(sample, press="knorm", ratio=0.5):
    return {"benchmark": "ruler", "length": 1024, "sample": sample, "press": press, "ratio": ratio, "measures": {}}


def test_what_is_written_is_read_again(tmp_path):
    with Journal(tmp_path, 0) as journal:
        journal.append([record("a"), record("b")])
        journal.append([record("b"), record("c")])  # a repeated group contains records that are there already
        done = journal.done
    again = Journal(tmp_path, 0)
    assert [entry["sample"] for entry in again.read()] == ["a", "b", "c"]
    assert again.done == done and len(done) == 3


def test_processes_see_each_other_s_samples(tmp_path):
    Journal(tmp_path, 0).append([record("a")])
    other = Journal(tmp_path, 1)
    other.append([record("a"), record("b")])
    assert (tmp_path / "samples-1.jsonl").read_text().count("\n") == 1
    assert len(Journal(tmp_path, 5).done) == 2


def test_half_a_line_is_cut_off_one_s_own_file_and_not_read_from_others(tmp_path):
    Journal(tmp_path, 0).append([record("a")])
    Journal(tmp_path, 1).append([record("b")])
    for rank in (0, 1):
        with (tmp_path / f"samples-{rank}.jsonl").open("a") as file:
            file.write('{"benchmark": "ru')
    journal = Journal(tmp_path, 0)
    assert {key[2] for key in journal.done} == {"a", "b"}
    journal.append([record("c")])
    assert [json.loads(line)["sample"] for line in (tmp_path / "samples-0.jsonl").open()] == ["a", "c"]
    assert (tmp_path / "samples-1.jsonl").read_text().endswith('"ru')


@pytest.mark.parametrize("line", ["not json\n", "[1, 2]\n", '{"sample": "a"}\n', "\n"])
def test_foreign_lines_are_refused(tmp_path, line):
    Journal(tmp_path, 0).append([record("a")])
    with (tmp_path / "samples-0.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=r"line 2 of .*samples-0.jsonl is not a finished sample"):
        Journal(tmp_path, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    Journal(tmp_path, 0).append([record("a")])
    journal = Journal(tmp_path, 1)
    with Path("/dev/full").open("ab", buffering=0) as full:
        journal._file = full
        with pytest.raises(OSError, match=r"No space left.*1 finished samples are kept"):
            journal.append([record("b")])
    assert len(journal.done) == 1 and len(Journal(tmp_path, 2).done) == 1


def test_two_runs_do_not_write_to_one_file(tmp_path):
    with Journal(tmp_path, 0):
        with pytest.raises(ValueError, match="another run is writing"):
            Journal(tmp_path, 0)
        Journal(tmp_path, 1).append([record("b")])
    assert len(Journal(tmp_path, 0).done) == 1


def test_packed_samples_are_read_first_and_not_written_to(tmp_path):
    with Journal(tmp_path, 0) as journal:
        journal.append([record("a"), record("b")])
    with Journal(tmp_path, 1) as journal:
        journal.append([record("c")])
    packed = pack(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl.gz"]
    before = packed.read_bytes()
    with Journal(tmp_path, 0) as journal:
        journal.append([record("b"), record("d")])
        assert [entry["sample"] for entry in journal.read()] == ["a", "b", "c", "d"]
    assert packed.read_bytes() == before
    assert (tmp_path / "samples-0.jsonl").read_text().count("\n") == 1
    pack(tmp_path)
    with Journal(tmp_path, 0) as journal:
        assert [entry["sample"] for entry in journal.read()] == ["a", "b", "c", "d"]


def test_packing_twice_gives_the_same_bytes_and_loses_no_line(tmp_path):
    Journal(tmp_path, 0).append([record("a"), record("b")])
    lines = (tmp_path / "samples-0.jsonl").read_bytes()
    first = pack(tmp_path).read_bytes()
    assert pack(tmp_path).read_bytes() == first and first[4:8] == bytes(4)  # no date
    assert content(tmp_path / "samples.jsonl.gz") == lines


def test_what_cannot_be_packed_is_left_alone(tmp_path):
    with pytest.raises(ValueError, match="no finished samples to pack"):
        pack(tmp_path)
    with Journal(tmp_path, 0) as journal:
        journal.append([record("a")])
        with pytest.raises(ValueError, match="another run is writing"):
            pack(tmp_path)
    with (tmp_path / "samples-0.jsonl").open("a") as file:
        file.write("not json\n")
    with pytest.raises(ValueError, match=r"line 2 of .*samples-0.jsonl is not a finished sample"):
        pack(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples-0.jsonl"]
