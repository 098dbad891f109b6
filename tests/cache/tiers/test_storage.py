"""A storage writes what it has to, and no more."""

from __future__ import annotations

import copy
import errno
import gc
import os
import shutil

import pytest
import torch

from pikvpress.cache.tiers import Tiers, storage
from pikvpress.cache.tiers.storage import Storage
from tests.cache.tiers.cases import dense, entries, same

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    return Storage(Tiers({"file": 1}, folder=tmp_path))


def files(tmp_path):
    return [path for folder in tmp_path.iterdir() for path in folder.iterdir()]


def test_what_is_put_into_a_file_is_the_same(store, tmp_path):
    held = entries()
    away = store.put(3, "file", held, None)
    assert away.tier == "file" and same(away.on(CPU), held) and away.nbytes == held.nbytes
    assert [path.name for path in files(tmp_path)] == ["layer-3.safetensors"]
    away.read_ahead()
    away.release()
    assert same(away.on(CPU), held)


def test_a_file_is_not_written_for_every_token(store, tmp_path):
    away = store.put(0, "file", entries(), None)
    (path,) = files(tmp_path)
    written = path.stat().st_ino
    for _ in range(64):
        held = away.on(CPU).appended(*(part[:, :, :1] for part in (dense(1).keys, dense(1).values)))
        away = store.put(0, "file", held, away)
        assert same(away.on(CPU), held)
    assert path.stat().st_ino == written and away.fresh.length == 64 and away.stored.tail.length == 10
    held = away.on(CPU).appended(dense(1).keys, dense(1).values)
    away = store.put(0, "file", held, away)
    assert path.stat().st_ino != written and away.fresh.length == 0 and same(away.on(CPU), held)
    shorter = store.put(0, "file", away.on(CPU).cropped(68), away)
    assert shorter.recent == 4 and same(shorter.on(CPU), held.cropped(68))


def test_what_was_changed_in_place_is_written(store):
    away = store.put(0, "file", entries(), None)
    held = away.on(CPU).appended(dense(1).keys, dense(1).values)
    held.tail.keys[:, :, 0] = 7
    away = store.put(0, "file", held, away)
    assert same(away.on(CPU), held) and away.stored.tail.length == 0


def test_the_folder_goes_with_the_storage(tmp_path):
    store = Storage(Tiers({"file": 1}, folder=tmp_path))  # a fixture would be kept
    away = store.put(0, "file", entries(), None)
    twin = copy.deepcopy(store)
    assert twin.tiers == store.tiers
    twin.put(0, "file", entries(), None)
    assert len(list(tmp_path.iterdir())) == 2
    del store, twin
    gc.collect()
    assert list(tmp_path.iterdir()) == [] and same(away.on(CPU), entries()), "a mapped file is read without its name"


def test_a_forked_process_leaves_the_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    storage._remove(tmp_path / "folder", os.getpid() + 1)
    assert (tmp_path / "folder").exists()


def test_an_error_says_which_layer_stays(store, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "write_sections", full)
    message = rf"No space left on device: layer 2 cannot be moved to a file, so it stays in memory: '{tmp_path}'"
    with pytest.raises(OSError, match=message) as raised:
        store.put(2, "file", entries(), None)
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()
    store.put(2, "file", entries(), None)
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: layer 2 cannot be moved to a file"):
        store.put(2, "file", entries(), None)


def test_host_memory_is_page_locked(store, monkeypatch):
    """Without a GPU there is no such memory."""
    asked, empty = [], torch.empty

    def locked(*args, pin_memory=False, **kwargs):
        asked.append(pin_memory)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", locked)
    held = entries()
    away = store.put(0, "host", held, None)
    assert away.tier == "host" and same(away.on(CPU), held) and any(asked)
    assert away.on(CPU).tensors()[0].data_ptr() != held.tensors()[0].data_ptr()
    again = store.put(0, "host", away.on(CPU).appended(dense(1).keys, dense(1).values), away)
    assert again.stored.compressed is away.stored.compressed and again.fresh.length == 1
