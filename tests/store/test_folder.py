"""A folder of contexts stays whole and within its size, whatever happens to the processes that use it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from pikvpress import PiKVCache
from pikvpress.cache.saving.file import MappedFile, write_sections
from pikvpress.store import ContextKeys, FolderStore
from pikvpress.store.folder import ABANDONED, MARK
from tests.cache.saving.cases import answer, filled
from tests.store.cases import put, text

NUMBERS = torch.arange(20_000, dtype=torch.float32)


def found(store, keys, least=1):
    return [key.length for key, _ in store.find(keys, least)]


def age(store, seconds):
    """Let everything that is stored have been used so many seconds earlier."""
    for one in store.contexts():
        os.utime(one.path, (one.used - seconds, one.used - seconds))


def test_prefixes_are_found_the_longest_first(tmp_path):
    store, ids = FolderStore(tmp_path / "new" / "store"), text(length=300)
    keys = ContextKeys("0" * 64, ids)
    for length in (1, 64, 150, 300):
        store.put(keys.at(length), lambda path: path.write_bytes(b"cache"), 5)
    other = ids.clone()
    other[0, 200] += 1
    assert found(store, keys) == [300, 150, 64, 1]
    assert found(store, keys, 64) == [300, 150, 64]
    assert found(store, ContextKeys("0" * 64, other)) == [150, 64, 1]
    assert found(store, ContextKeys("0" * 64, ids[:, :150])) == [150, 64, 1]
    assert found(store, ContextKeys("1" * 64, ids)) == [] == found(store, ContextKeys("0" * 64, ids.repeat(2, 1)))
    assert store.remove(keys.at(150)) and not store.remove(keys.at(150))
    assert found(store, keys) == [300, 64, 1]
    assert [one.key.length for one in FolderStore(tmp_path / "new" / "store", create=False).contexts()].count(64) == 1


def test_the_least_recently_used_go_first(tmp_path):
    store = FolderStore(tmp_path, max_bytes=3000)
    keys = []
    for number in range(3):
        age(store, 10)
        keys.append(put(store, number))
    assert found(store, keys[0]) == [209]  # used now, so that the second is the oldest
    age(store, 10)
    put(store, 3)
    assert [bool(found(store, one)) for one in keys] == [True, False, True] and store.nbytes == 3000
    age(store, 10)
    put(store, 4, 2500)
    assert [one.nbytes for one in store.contexts()] == [2500]
    assert put(store, 5, 3000) and store.nbytes == 3000


def test_what_is_larger_than_the_store_is_refused(tmp_path):
    store = FolderStore(tmp_path, max_bytes=3000)
    put(store, 0)
    for told in (4000, 10):  # before it is written, or when it turns out to be larger
        keys = ContextKeys("0" * 64, text(seed=1))
        with pytest.raises(ValueError, match=r"takes 4,000 bytes, and the store in .* may have 3,000: raise max_bytes"):
            store.put(keys.at(209), lambda path: path.write_bytes(bytes(4000)), told)
    assert [one.nbytes for one in store.contexts()] == [1000]


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match=r"contains notes\.txt and is no store: choose an empty folder"):
        FolderStore(tmp_path)
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        FolderStore(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="there is no store in"):
        FolderStore(tmp_path / "none", create=False)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["notes.txt"]
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        FolderStore(tmp_path / "none", max_bytes=0)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (json.dumps({"pikvpress-store": 2}), "has format 2, and this version reads formats up to 1: update pikvpress"),
        ("[]", "is not the mark of a store"),
        ("{", "is not the mark of a store"),
        (json.dumps({"pikvpress-store": "x"}), "has format x"),
    ],
)
def test_stores_of_other_versions_are_refused(tmp_path, mark, message):
    (tmp_path / MARK).write_text(mark)
    with pytest.raises(ValueError, match=message):
        FolderStore(tmp_path)
    assert (tmp_path / MARK).read_text() == mark


def test_other_files_in_a_store_are_left_alone(tmp_path):
    store = FolderStore(tmp_path, max_bytes=1000)
    names = ["mine.safetensors", "notes.txt", ".hidden.partial"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(5000))
    put(store, 0)
    put(store, 1)
    assert len(store.contexts()) == 1 and all((tmp_path / name).exists() for name in names)
    os.utime(tmp_path / ".hidden.partial", (0, time.time() - ABANDONED - 1))
    put(store, 2)
    assert not (tmp_path / ".hidden.partial").exists() and (tmp_path / "mine.safetensors").exists()


def test_a_full_disk_leaves_everything_whole(tmp_path, monkeypatch):
    store, keys = FolderStore(tmp_path, max_bytes=10**6), ContextKeys("0" * 64, text())
    key, before = keys.at(209), {}
    store.put(key, writer(1), 80_000)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for one in (key, keys.at(100)):
        with pytest.raises(OSError, match=r"No space left on device \(nothing was saved\)"):
            store.put(one, writer(2), 80_000)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before and not store.damaged()


def writer(number):
    """Return a function that writes the same file again and again."""
    return lambda path: write_sections(path, {"numbers": [NUMBERS + number]}, {"number": number})


def keep_putting(folder, numbers, limit):
    store = FolderStore(folder, limit)
    while True:
        for number in numbers:
            keys = ContextKeys("0" * 64, text(seed=number))
            store.put(keys.at(209), writer(number), 80_000)


def whole(store):
    """Check that everything that is found is what was put under its key."""
    for number in range(6):
        for key, path in store.find(ContextKeys("0" * 64, text(seed=number)), 1):
            assert key.length == 209
            try:
                file = MappedFile(path)
            except FileNotFoundError:
                continue
            file.verify("numbers")
            assert file.contents == {"number": number}


def test_killed_at_20_moments(tmp_path):
    store, context = FolderStore(tmp_path), multiprocessing.get_context("fork")
    moments = random.Random(4)
    for _ in range(20):
        process = context.Process(target=keep_putting, args=(tmp_path, range(6), None))
        process.start()
        time.sleep(moments.uniform(0.005, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        whole(store)
    assert store.contexts() and not store.damaged()
    left = {one.name for one in tmp_path.iterdir()} - {one.path.name for one in store.contexts()} - {MARK}
    assert all(name.startswith(".") and name.endswith(".partial") for name in left)


def test_two_writers_and_a_reader_while_contexts_are_removed(tmp_path):
    limit = 3 * 81_000
    store, context = FolderStore(tmp_path, limit), multiprocessing.get_context("fork")
    processes = [
        context.Process(target=keep_putting, args=(tmp_path, one, limit)) for one in ([0, 1, 2, 3], [3, 4, 5, 0])
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        whole(store)
    for process in processes:
        assert process.is_alive()
        process.kill()
        process.join()
    put(store, 0, 80_000)
    assert 0 < store.nbytes <= limit


def test_what_is_removed_while_it_is_read_can_still_be_read(llama, tmp_path):
    store, cache = FolderStore(tmp_path, max_bytes=10**6), filled(llama, "int8/int4", 3)
    keys = ContextKeys("0" * 64, text())
    store.put(keys.at(209), cache.save, cache.nbytes)
    ((key, path),) = store.find(keys, 1)
    loaded = PiKVCache.load(path, llama)
    assert store.remove(key) and not path.exists() and store.contexts() == []
    assert torch.equal(answer(llama, loaded, 2), answer(llama, cache, 2))


def test_damage_is_named(tmp_path):
    store = FolderStore(tmp_path)
    for number in range(3):
        store.put(ContextKeys("0" * 64, text(seed=number)).at(209), writer(number), 80_000)
    assert store.damaged() == []
    flipped, truncated, _ = (one.path for one in store.contexts())
    stored = bytearray(flipped.read_bytes())
    stored[-1000] ^= 1
    flipped.write_bytes(stored)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    damaged = {one.path: error for one, error in store.damaged()}
    assert damaged.keys() == {flipped, truncated}
    assert "numbers in" in damaged[flipped] and "bytes, not the" in damaged[truncated]
