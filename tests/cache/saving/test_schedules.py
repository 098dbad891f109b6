"""A scheduled cache goes on as if it had never left, by the same scheduler and within the same ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from pikvpress import PiKVCache
from pikvpress.cache.saving import file as saving_file
from pikvpress.cache.saving.file import MappedFile, write_sections
from pikvpress.gates import file_name, save_gates
from pikvpress.models import attention_layers, fingerprint
from pikvpress.schedulers import SCHEDULERS, H2OScheduler, SaliencyScheduler
from tests.cache.saving.cases import CACHES, LENGTH, answer, filled, ids, read
from tests.cache.saving.test_whole import rewrite
from tests.helpers import uneven_gates


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.safetensors"


@pytest.mark.parametrize("name", [*SCHEDULERS, "duo by ratio", "saliency by bytes", "bytes, then h2o"])
def test_pages_leave_after_loading_as_without(name, llama, path):
    cache = filled(llama, name, 30)
    cache.save(path)
    loaded, before = PiKVCache.load(path, llama), cache.current_schedule
    after = loaded.current_schedule
    assert (after.ceiling, after.window, after.layers) == (before.ceiling, before.window, before.layers)
    assert after.scheduler.name == before.scheduler.name and after.met and after.of_press == before.of_press
    for first in range(0, 140, 35):
        tokens = ids()[:, first : first + 35]
        assert torch.equal(read(llama, loaded, tokens), read(llama, cache, tokens))
    assert torch.equal(answer(llama, loaded, 3), answer(llama, cache, 3))
    assert loaded.history.steps == cache.history.steps and loaded.nbytes == cache.nbytes
    assert name == "quest" or sum(cache.history.dropped().values()) > 0


def test_batches_and_copies(llama, path):
    cache = filled(llama, "lru_plus", 90, torch.ones(3, LENGTH, dtype=torch.long))
    cache.save(path)
    loaded = PiKVCache.load(path, llama)
    for one in (cache, loaded):
        one.batch_select_indices(torch.tensor([2, 0, 0, 1]))
    rows = ids(4)[:, :70].flip(0)
    assert torch.equal(read(llama, loaded, rows), read(llama, cache, rows))


def test_cropping_and_saving_again(llama, path):
    cache = filled(llama, "h2o", 90)
    cache.save(path)
    PiKVCache.load(path, llama).save(again := path.with_name("again"))
    assert again.read_bytes() == path.read_bytes()
    loaded = PiKVCache.load(path, llama)
    for one in (cache, loaded):
        one.crop(LENGTH - 20)
    assert torch.equal(answer(llama, loaded, 3), answer(llama, cache, 3))
    loaded = PiKVCache.load(path, llama)
    loaded.reset()
    assert loaded.get_seq_length() == 0 and loaded.current_schedule is not None
    fresh = filled(llama, "h2o", 90)
    with torch.no_grad():
        llama.model(ids(), past_key_values=loaded)
    read(llama, loaded, ids()[:, :90].flip(1))
    assert torch.equal(answer(llama, loaded, 2), answer(llama, fresh, 2))


@pytest.mark.parametrize("kind", ["h2o", "saliency"])
def test_empty_scheduled_caches(kind, llama, path):
    make, _ = CACHES[kind]
    make(llama).save(path, llama)
    caches = PiKVCache.load(path, llama), make(llama)
    assert caches[0].current_schedule is not None and not caches[0].current_schedule.met
    for cache in caches:
        with torch.no_grad():
            llama.model(ids(), past_key_values=cache)
    assert torch.equal(answer(llama, caches[0], 2), answer(llama, caches[1], 2))


@pytest.mark.parametrize("append_only", [False, True])
def test_curves_of_gates_are_in_the_file(append_only, llama, path, monkeypatch):
    folder = path.with_name("gates")
    folder.mkdir()
    save_gates(folder / file_name(fingerprint(attention_layers(llama)[0])), uneven_gates(llama))
    weights = CACHES["saliency"][0](llama).current_schedule.scheduler.weights
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setenv("PIKVPRESS_GATES", str(folder))
        scheduler = SaliencyScheduler(weights=weights, append_only=append_only)
        cache = PiKVCache(window=16, scheduler=scheduler, ratio=0.5)
        llama.model(ids(), past_key_values=cache)
        read(llama, cache, ids()[:, :90].flip(1))
        assert cache.current_schedule.scheduler._gates is not None
        cache.save(path)
    loaded = PiKVCache.load(path, llama)  # without the gates
    for tokens in (ids()[:, :70], ids()[:, 70:150]):
        assert torch.equal(read(llama, loaded, tokens), read(llama, cache, tokens))
    assert loaded.layers[0].counts() == cache.layers[0].counts() and loaded.history.steps == cache.history.steps


@dataclass(frozen=True)
class OwnScheduler(H2OScheduler):
    name: ClassVar[str] = "own"

    function: object = len


def test_schedulers_that_cannot_be_found_again_are_refused(llama, path, monkeypatch):
    cache = filled(llama, "dense")
    cache.schedule(OwnScheduler(), max_tokens=300)
    with pytest.raises(ValueError, match="scheduler 'own' cannot be saved, because it cannot be found by its name"):
        cache.save(path)
    monkeypatch.setitem(SCHEDULERS, "own", OwnScheduler)
    with pytest.raises(ValueError, match="scheduler 'own' cannot be saved: Object of type builtin_function"):
        cache.save(path)
    assert not path.exists()
    cache.schedule(OwnScheduler(function=3), max_tokens=300)
    cache.save(path)
    assert PiKVCache.load(path, llama).current_schedule.scheduler == OwnScheduler(function=3)
    monkeypatch.delitem(SCHEDULERS, "own")
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: unknown scheduler 'own'"):
        PiKVCache.load(path, llama)


@pytest.mark.parametrize(
    "change", [{"scheduler": 5}, {"ceiling": {}}, {"tensors": {"cos": ["float32", 9, 9]}}, {"history": 10**9}], ids=str
)
def test_nonsense_with_right_checksums_is_refused(change, llama, path):
    filled(llama, "h2o", 90).save(path)
    rewrite(path, lambda contents: contents | {"schedule": contents["schedule"] | change})
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: "):
        PiKVCache.load(path, llama)


def test_records_of_other_entries_are_refused(llama, path):
    filled(llama, "h2o", 90).save(path)

    def change(contents):
        keeper = contents["layers"][0]["keeper"]
        return contents | {
            "layers": [contents["layers"][0] | {"keeper": keeper | {"stored": 1}}, *contents["layers"][1:]]
        }

    rewrite(path, change)
    with pytest.raises(ValueError, match="the records of a scheduler are about"):
        PiKVCache.load(path, llama, verify=True)


def test_files_of_the_first_format_are_read(llama, path, monkeypatch):
    cache = filled(llama, "ragged", 3)
    cache.save(path)
    file = MappedFile(path)
    sections = {name: [file.tensor(name, 0, torch.uint8, [file.size(name)])] for name in file.sections}
    contents = {name: value for name, value in file.contents.items() if name not in ("schedule", "output")}
    for layer in contents["layers"]:
        layer.pop("keeper", None)
    with monkeypatch.context() as patch:
        patch.setattr(saving_file, "VERSION", 1)
        write_sections(path, sections, contents)
    assert MappedFile(path).version == 1
    assert torch.equal(answer(llama, PiKVCache.load(path, llama), 2), answer(llama, cache, 2))
