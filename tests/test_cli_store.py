"""Contexts are stored, listed, copied, checked and removed by commands."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from pikvpress import FolderStore, PiKVCache, PiKVPress
from pikvpress.cli import app
from pikvpress.default_model import load_model
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer
from tests.store.cases import counted

runner = CliRunner()
TEXT = "The code stands in the line . " * 40


def run(*arguments):
    return runner.invoke(app, ["store", *map(str, arguments)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_tiny("llama", seed=21).save_pretrained(folder)
    make_tokenizer(vocabulary=["The", *TEXT.split()]).save_pretrained(folder)
    return folder


@pytest.fixture
def filled(model, tmp_path):
    """Return a store with two contexts, and the keys that `ls` shows."""
    for name, text in (("one.txt", TEXT), ("two.txt", TEXT + "The line .")):
        (tmp_path / name).write_text(text)
    store = tmp_path / "store"
    result = run("put", store, tmp_path / "one.txt", tmp_path / "two.txt", "--model", model)
    assert result.exit_code == 0, result.output
    assert result.output.count(" tokens stored") == 2
    return store, re.findall(r"^ *([0-9a-f]{12}) ", run("ls", store).output, flags=re.MULTILINE)


def test_what_is_stored_is_listed_and_known_to_the_pipeline(filled, model, tmp_path):
    store, keys = filled
    listed = run("ls", store).output
    assert len(keys) == 2 and "LlamaForCausalLM" in listed and "PiKVPress(0.875)" in listed
    assert f"2 contexts, {FolderStore(store).nbytes:,} bytes" in listed
    assert "tokens known already" in run("put", store, tmp_path / "one.txt", "--model", model).output
    network, tokenizer = load_model(str(model))
    pipe = pipeline("kv-press-text-generation", model=network, tokenizer=tokenizer)
    with counted(network) as read:
        pipe(TEXT, question="code ?", press=PiKVPress(0.875), store=FolderStore(store), max_new_tokens=2)
    assert len(read) == 2 and max(read) < 20
    result = run("put", store, tmp_path / "one.txt", "--model", model, "--ratio", 0)
    assert "stored" in result.output and " none" in run("ls", store).output


def test_a_context_is_copied_for_a_cache(filled, model, tmp_path):
    store, keys = filled
    assert run("get", store, keys[0], tmp_path / "copy").exit_code == 0
    network, _ = load_model(str(model))
    with torch.no_grad():
        network(torch.ones(1, 3, dtype=torch.long), past_key_values=PiKVCache.load(tmp_path / "copy", network))


def test_damage_is_found_and_removed(filled):
    store, keys = filled
    result = run("verify", store)
    assert result.exit_code == 0 and "2 contexts, 0 damaged" in result.output
    (path,) = (one.path for one in FolderStore(store).contexts() if one.key.digest.startswith(keys[1]))
    path.write_bytes(path.read_bytes()[:100])
    result = run("verify", store)
    assert result.exit_code == 1 and f"{keys[1]}: {path} is not a saved cache" in result.output
    assert "damaged" in run("ls", store).output
    assert "1 contexts removed" in run("rm", store, keys[1]).output
    assert "1 contexts, 0 damaged" in run("verify", store).output
    assert "1 contexts removed" in run("rm", store, "--all").output and "0 contexts" in run("ls", store).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "/nowhere"], "there is no store in /nowhere"),
        (["verify", "/nowhere"], "there is no store in /nowhere"),
        (["get", "{store}", "xyz", "copy"], "no context in"),
        (["get", "{store}", "", "copy"], "2 contexts in"),
        (["get", "{store}", "{key}", "/nowhere/copy"], "/nowhere is not a folder"),
        (["rm", "{store}"], "name the contexts to remove, or pass --all"),
        (["rm", "{store}", "{key}", "--all"], "one of the two"),
        (["rm", "{store}", "{key}", "xyz"], "no context in"),
        (["put", "{store}", "/nowhere.txt"], "No such file"),
        (["put", "{store}", "{empty}"], "is empty"),
        (["put", "{store}", "{text}", "--model", "/nowhere"], "there is no model at /nowhere"),
        (["put", "{store}", "{text}", "--model", "{model}", "--ratio", "1.5"], "must be in [0, 1), got 1.5"),
        (["put", "{store}", "{new}", "--model", "{model}", "--max-bytes", "1"], "raise max_bytes"),
        (["put", "{parent}", "{text}", "--model", "{model}"], "is no store"),
    ],
)
def test_bad_input_ends_in_one_clear_line(arguments, message, filled, model, tmp_path):
    store, keys = filled
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "new.txt").write_text("code " * 100)
    names = {"store": store, "parent": tmp_path, "key": keys[0], "model": model, "text": tmp_path / "one.txt"}
    names |= {"empty": tmp_path / "empty.txt", "new": tmp_path / "new.txt"}
    result = run(*(one.format(**names) for one in arguments))
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ") and "Traceback" not in result.output
    assert len(FolderStore(store).contexts()) == 2
