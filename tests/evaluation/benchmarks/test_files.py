"""Where records are stored, and how each format is read."""

from __future__ import annotations

import json

import pandas
import pytest

from evaluation.benchmarks.files import find_files, read_records

RECORDS = [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_records(suffix, tmp_path):
    path, table = tmp_path / f"file.{suffix}", pandas.DataFrame(RECORDS)
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")
    elif suffix == "json":
        path.write_text(json.dumps(RECORDS))
    elif suffix == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    assert read_records(path) == RECORDS


def test_broken_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json cannot be read as json"):
        read_records(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold records"):
        read_records(tmp_path / "a.json")


def test_a_configuration_s_own_files_come_first_and_the_test_split_of_several(tmp_path):
    for name in ("data/test-0.parquet", "data/train-0.parquet", "one/x.csv", "two.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {config: find_files(tmp_path, config) for config in (None, "one", "two", "three")}
    names = {config: [path.name for path in files.files] for config, files in found.items()}
    assert names == {None: ["test-0.parquet"], "one": ["x.csv"], "two": ["two.jsonl"], "three": ["test-0.parquet"]}
    assert [files.own for files in found.values()] == [True, True, True, False]


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_files(tmp_path / "none", None)
    with pytest.raises(FileNotFoundError, match=r"holds nothing, but not one/\*"):
        find_files(tmp_path, "one")
