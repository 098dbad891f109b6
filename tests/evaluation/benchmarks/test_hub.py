"""Loading kvpress-style sets: where files may be, what records must hold, and the errors otherwise."""

from __future__ import annotations

import csv
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from evaluation.benchmarks.columns import TEXT, TEXTS, WHOLE_NUMBER
from evaluation.benchmarks.hub import Source, load_rows

SOURCE = Source("demo", "someone/demo", answer="answers", answer_kinds=(TEXTS,), extras={"length": (WHOLE_NUMBER,)})
RULER = Source("ruler", "simonjegou/ruler", answer_kinds=(TEXTS,))


def record(**changes):
    values = {
        "context": "Ann has 7 apples.",
        "question": "How many?",
        "answer_prefix": "Answer:",
        "answers": ["7", "seven"],
        "max_new_tokens": 8,
        "length": 4,
        "task": "apples",
    }
    return {name: value for name, value in (values | changes).items() if value is not ...}


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(records[0]))
            table.writeheader()
            cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in records]
            table.writerows(cells)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    "path",
    [
        "apples/test-00000-of-00001.parquet",
        "apples/any.jsonl",
        "apples.parquet",
        "apples.json",
        "apples.csv",
        "data/test.csv",
        "all.jsonl",
    ],
)
def test_files_may_lie_in_many_places(tmp_path, path):
    write(tmp_path / path, [record()])
    (row,) = load_rows(SOURCE, tmp_path, "apples", "apples")
    assert (row.context, row.question, row.answer_prefix) == ("Ann has 7 apples.", "How many?", "Answer:")
    assert (row.answer, row.max_new_tokens, row.task, row.extras) == (["7", "seven"], 8, "apples", {"length": 4})


def test_only_the_test_split_is_read(tmp_path):
    write(tmp_path / "train.parquet", [record(context="seen")])
    write(tmp_path / "test.parquet", [record(context="unseen")])
    assert [row.context for row in load_rows(SOURCE, tmp_path, task="apples")] == ["unseen"]


def test_tasks_may_share_files(tmp_path):
    source = Source("demo", "someone/demo", answer="answers", answer_kinds=(TEXTS,), config_per_task=True, suffix="-e")
    write(tmp_path / "all.jsonl", [record(), record(task="pears"), record(task="apples-e", context="third")])
    assert [row.context for row in load_rows(source, tmp_path, "apples_e", "apples")] == ["Ann has 7 apples.", "third"]
    with pytest.raises(FileNotFoundError, match="no record of task 'plums'; its records are of: apples, apples-e, pea"):
        load_rows(source, tmp_path, "plums", "plums")


def test_task_can_be_a_column(tmp_path):
    write(tmp_path / "4096" / "test.parquet", [record(task=task, answer=["7"]) for task in ("vt", "cwe")])
    assert [row.task for row in load_rows(RULER, tmp_path, "4096")] == ["vt", "cwe"]
    write(tmp_path / "8192.jsonl", [record(task=..., answer=["7"])])
    with pytest.raises(ValueError, match="column 'task' is missing"):
        load_rows(RULER, tmp_path, "8192")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"length": ...}, ValueError, r"demo.jsonl, record 2: column 'length' is missing; needed are context"),
        ({"answers": "7"}, TypeError, r"column 'answers' must hold a list of text, not text \('7'\)"),
        ({"answers": []}, TypeError, r"'answers' must hold a list of text, not an empty list"),
        ({"answers": ["7", 7]}, TypeError, r"'answers' must hold a list of text, not a list of mixed things"),
        ({"max_new_tokens": 8.5}, TypeError, r"'max_new_tokens' must hold an integer, not float"),
        ({"max_new_tokens": True}, TypeError, r"'max_new_tokens' must hold an integer, not bool"),
        ({"question": None}, TypeError, r"'question' must hold text, not nothing"),
        ({"context": " "}, ValueError, r"demo.jsonl, record 2: .* empty context"),
        ({"max_new_tokens": 0}, ValueError, r"demo.jsonl, record 2: max_new_tokens must be at least 1"),
    ],
)
def test_bad_records_are_named(tmp_path, changes, error, message):
    write(tmp_path / "demo.jsonl", [record(), record(**changes)])
    with pytest.raises(error, match=message):
        load_rows(SOURCE, tmp_path, "demo", "demo")


def test_bad_cells_of_csv_are_named(tmp_path):
    write(tmp_path / "demo.csv", [record(max_new_tokens="eight")])
    with pytest.raises(TypeError, match="'max_new_tokens' must hold an integer, not text"):
        load_rows(SOURCE, tmp_path, "demo", "demo")


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", "{"), ("a.json", '{"context": 1}'), ("a.parquet", "PAR"), ("a.csv", 'a\n"b')]
)
def test_broken_files_are_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} (cannot be read as|must hold records)"):
        load_rows(SOURCE, tmp_path, task="demo")


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none.* `hf download someone/demo"):
        load_rows(SOURCE, tmp_path / "none", "apples", "apples")
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"holds README.md, but not apples/\*"):
        load_rows(SOURCE, tmp_path, "apples", "apples")
    (tmp_path / "apples.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match=r"holds no records"):
        load_rows(SOURCE, tmp_path, "apples", "apples")


def test_without_network_the_hub_says_how_to_get_it(offline):
    with pytest.raises(FileNotFoundError, match=r"'demo' \(apples\).*`hf download someone/demo .*--data DIR"):
        load_rows(SOURCE, None, "apples", "apples")


def test_hub_is_asked_as_kvpress_asks(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([record()])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (row,) = load_rows(SOURCE, None, "apples", "apples")
    assert asked == [(("someone/demo", "apples"), {"split": "test"})]
    assert (row.answer, row.extras) == (["7", "seven"], {"length": 4})
    text = Source("demo", "someone/demo", answer="answers", answer_kinds=(TEXT,))
    with pytest.raises(TypeError, match="someone/demo/apples, record 1: column 'answers' must hold text"):
        load_rows(text, None, "apples", "apples")
