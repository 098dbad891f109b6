"""A saved cache goes on as if it had never left, and nothing but it is loaded."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from kvpress import KnormPress, KVzipPress

from pikvpress import PiKVCache, PiKVPress
from pikvpress.cache import saved_cache
from pikvpress.cache.saving import file as saving_file
from pikvpress.cache.saving.file import MappedFile, write_sections
from pikvpress.cache.saving.layer import SavedLayer
from pikvpress.models import attention_layers
from tests.cache.saving.cases import CACHES, LENGTH, answer, answers_of_files, filled, ids, read
from tests.conftest import make_tiny


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.safetensors"


@pytest.mark.parametrize(
    ("kind", "later"), [*((kind, 90) for kind in CACHES), ("dense", 0), ("ragged", 0), ("bytes", 0)]
)
def test_a_loaded_cache_goes_on_as_the_saved_one(llama, path, kind, later):
    cache = filled(llama, kind, later)
    cache.save(path)
    loaded = PiKVCache.load(path, llama)
    assert loaded.nbytes == cache.nbytes and loaded.get_seq_length() == cache.get_seq_length()
    assert str(loaded) == str(cache)
    for tokens in (ids()[:, :1], ids()[:, 10:80]):
        assert torch.equal(read(llama, loaded, tokens), read(llama, cache, tokens))
    assert loaded.nbytes == cache.nbytes


def test_in_another_process_every_kind_goes_on(tmp_path):
    model = make_tiny("llama")  # fresh, as the other process makes it
    expected, files = [], []
    for index, kind in enumerate(CACHES):
        cache = filled(model, kind, 3)
        cache.save(files.append(f"{tmp_path}/{index}") or files[-1])
        expected.append(answer(model, cache, 2))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(answers_of_files, (files, 2, torch.get_num_threads()))
    here = answers_of_files(files, 2, torch.get_num_threads())
    differences = {
        kind: ((one - other).abs().max().item(), (two - other).abs().max().item())
        for kind, one, two, other in zip(CACHES, found, here, expected, strict=True)
    }
    assert differences == dict.fromkeys(CACHES, (0, 0))


@pytest.mark.parametrize("kind", ["dense", "ragged and packed"])
def test_padded_batches(llama, path, kind):
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[1, :40], mask[2, :7] = 0, 0
    cache = filled(llama, kind, 90, mask)
    cache.save(path)
    loaded = PiKVCache.load(path, llama)
    assert loaded.nbytes == cache.nbytes
    for one in (cache, loaded):
        one.batch_select_indices(torch.tensor([2, 1, 1]))
    mask = torch.cat([mask, mask.new_ones(3, 90)], dim=1)[[2, 1, 1]]
    assert torch.equal(answer(llama, loaded, 2, mask), answer(llama, cache, 2, mask))


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3_moe"])
def test_other_architectures_with_sliding_layers_too(architecture, path):
    model = make_tiny(architecture, dtype=torch.bfloat16)
    cache = filled(model, "int8/int4", 90)
    cache.save(path)
    assert torch.equal(answer(model, PiKVCache.load(path, model), 3), answer(model, cache, 3))


def test_generating_and_cropping(llama, path):
    cache = filled(llama, "int8/int4", 90)
    cache.save(path)
    outputs = []
    for one in (cache, PiKVCache.load(path, llama)):
        one.crop(LENGTH + 10)  # inside a packed group
        inputs = torch.cat([ids(), torch.full((1, 15), 9)], dim=1)
        outputs.append(llama.generate(inputs, past_key_values=one, max_new_tokens=3, do_sample=False))
    assert torch.equal(*outputs) and outputs[0].shape[1] == LENGTH + 18


def test_saving_changes_nothing(llama, path):
    kept = copy.deepcopy(filled(llama, "ragged"))
    cache = filled(llama, "ragged")  # what the press masked is not yet removed from the last layer
    before = [layer.entries for layer in cache.layers]
    cache.save(path)
    assert all(layer.entries is entries for layer, entries in zip(cache.layers, before, strict=True))
    assert PiKVCache.load(path, llama).nbytes == cache.nbytes == kept.nbytes < sum(entries.nbytes for entries in before)
    assert torch.equal(answer(llama, cache, 2), answer(llama, kept, 2))


def test_loaded_caches_are_copied_saved_and_reset(llama, path):
    cache = filled(llama, "bytes", 3)
    cache.save(path)
    expected = answer(llama, cache, 2)
    for copied in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        assert torch.equal(answer(llama, copied(PiKVCache.load(path, llama)), 2), expected)
    again = path.with_name("again")
    PiKVCache.load(path, llama).save(again)  # the model is known from loading
    assert again.read_bytes() == path.read_bytes()
    PiKVCache.load(path, llama).save(path)  # over the file that is mapped
    assert again.read_bytes() == path.read_bytes()
    loaded = PiKVCache.load(path, llama)
    loaded.reset()
    assert loaded.get_seq_length() == 0 and loaded.nbytes == 0
    pickle.dumps(loaded)


def test_a_failed_forward_is_undone_after_loading_too(llama, path):
    cache = filled(llama, "ragged", 5)
    expected = answer(llama, copy.deepcopy(cache), 2)
    hook = llama.model.layers[0].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answer(llama, cache, 1)
    hook.remove()
    cache.save(path)
    loaded = PiKVCache.load(path, llama)
    with pytest.raises(ValueError, match=f"restored to the {LENGTH + 5} entries"):
        answer(llama, loaded, 1)
    assert torch.equal(answer(llama, loaded, 2), expected)


def test_an_empty_cache_needs_its_model(llama, path):
    with pytest.raises(ValueError, match=r"not known which model filled this cache: pass it, cache\.save\(path, model"):
        PiKVCache("int4").save(path)
    PiKVCache("int4", window=7).save(path, llama)
    loaded = PiKVCache.load(path, llama)
    other = PiKVCache("int4", window=7)
    with torch.no_grad():
        for one in (loaded, other):
            llama(ids(), past_key_values=one)
    assert loaded.nbytes == other.nbytes and torch.equal(answer(llama, loaded, 2), answer(llama, other, 2))


def test_another_model_is_refused_even_if_it_is_another_in_one_weight(llama, path):
    filled(llama, "int8/int4").save(path)
    twin = make_tiny("llama")
    assert PiKVCache.load(path, twin).get_seq_length() == LENGTH
    with torch.no_grad():
        twin.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
    with pytest.raises(ValueError, match=r"was saved with another model \(other weights\): load it with"):
        PiKVCache.load(path, twin)
    with pytest.raises(ValueError, match=r"\(other architecture, config, weights\)"):
        PiKVCache.load(path, make_tiny("qwen2"))
    with pytest.raises(TypeError, match="must be a model of transformers"):
        PiKVCache.load(path, None)


def test_the_model_that_read_last_is_found_and_another_may_be_given(llama, path):
    cache, twin = filled(llama, "dense"), make_tiny("llama", seed=1)
    filled(llama, "int8/int4")  # the model has read another cache since
    cache.save(path)
    PiKVCache.load(path, llama)
    cache.save(path, twin)
    with pytest.raises(ValueError, match="another model"):
        PiKVCache.load(path, llama)
    del llama, twin
    with pytest.raises(ValueError, match="not known which model"):
        copy.deepcopy(cache).save(path)


def test_token_ids_are_compared_if_they_are_given(llama, path):
    cache = filled(llama, "dense")
    cache.save(path, input_ids=ids())
    PiKVCache.load(path, llama)
    PiKVCache.load(path, llama, input_ids=ids().int())
    with pytest.raises(ValueError, match="is the cache of other token ids: of another text, or by another tokenizer"):
        PiKVCache.load(path, llama, input_ids=ids().flip(1))
    cache.save(path)
    with pytest.raises(ValueError, match="was saved without token ids"):
        PiKVCache.load(path, llama, input_ids=ids())


def test_a_press_at_work_is_waited_for(llama, path):
    cache, hook = PiKVCache("int4", "int4", window=8), KVzipPress(0.5).forward_hook
    with torch.no_grad():
        llama.model(ids(), past_key_values=cache)
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in attention_layers(llama)]
    with pytest.raises(ValueError, match="will read the context again before it is packed: save the cache after"):
        cache.save(path)
    for handle in handles:
        handle.remove()
    cache.save(path)
    path.unlink()
    cache.layers[0] = torch.nn.Identity()
    with pytest.raises(ValueError, match="layer 0 is a Identity of a press at work"):
        cache.save(path)
    assert not path.exists()


def test_altered_layers_are_found_before_they_are_used(llama, path):
    cache = filled(llama, "int8/int4", 3)
    cache.save(path)
    file = MappedFile(path)
    stored = bytearray(path.read_bytes())
    stored[file._places["layer.1"][0] + 1000] ^= 4
    path.write_bytes(stored)
    with pytest.raises(ValueError, match=r"layer\.1 in .* has been altered since it was written"):
        PiKVCache.load(path, llama, verify=True)
    loaded = PiKVCache.load(path, llama)
    assert loaded.nbytes == cache.nbytes
    for _ in range(2):  # it is not half usable afterwards
        with pytest.raises(ValueError, match=r"layer\.1 in .* has been altered since it was written"):
            answer(llama, loaded, 1)


def test_a_bit_flipped_anywhere_is_found(llama, path):
    filled(llama, "calibrated", 90).save(path, press=PiKVPress(0.5, gates=None))
    stored = path.read_bytes()
    for bit in range(0, 8 * len(stored), 4003):
        altered = bytearray(stored)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=str(path)):
            PiKVCache.load(path, llama, verify=True)
            saved_cache(path)  # only this reads the plan


@pytest.mark.parametrize(
    "change",
    [
        {"layers": None},
        {"codecs": ["int4", "int5", "exact"]},
        {"codecs": ["int4"]},
        {"bases": [{}]},
        {"model": {}},
        {"choices": ["exact"]},
        {"window": "many"},
    ],
    ids=str,
)
def test_nonsense_with_right_checksums_is_refused(llama, path, change):
    filled(llama, "int8/int4", 3).save(path)
    rewrite(path, lambda contents: contents | change)
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: "):
        PiKVCache.load(path, llama)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [5000, 16]},
        {"counts": [[1, 2, 3], 16]},
        {"counts": [100, 16]},
        {"lengths": [184]},
        {"shapes": [[1, 2, 3, 16]] * 3},
        {"shapes": [[1, 2, -3, 16]] * 2},
        {"dtypes": ["float32", "int64"]},
        {"flags": []},
        {"codecs": [[0, 9], [0, 0]]},
    ],
    ids=str,
)
def test_nonsense_about_a_layer_is_refused(llama, path, change):
    filled(llama, "int8/int4", 3).save(path)
    rewrite(path, lambda contents: contents | {"layers": [contents["layers"][0] | change, contents["layers"][1]]})
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: "):
        PiKVCache.load(path, llama)


def test_channels_that_do_not_exist_are_refused(llama, path):
    cache = filled(llama, "cleared channels")
    cache.layers[0].entries.compressed.context[0].keys.channels[0][0] = 99
    cache.save(path)
    with pytest.raises(ValueError, match="entries of 16 channels have no channels"):
        PiKVCache.load(path, llama, verify=True)


def rewrite(path, change):
    """Change what a file says about its sections, with the right checksums."""
    file = MappedFile(path)
    sections = {name: [file.tensor(name, 0, torch.uint8, [file.size(name)])] for name in file.sections}
    write_sections(path, sections, change(file.contents))


def test_a_newer_format_is_refused(llama, path, monkeypatch):
    cache = filled(llama, "dense")
    monkeypatch.setattr(saving_file, "VERSION", 2)
    cache.save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="written by a newer version of pikvpress"):
        PiKVCache.load(path, llama)


def test_files_are_little_larger_than_the_cache(path):
    model = make_tiny("llama")
    context = torch.randint(1, 511, (1, 1024), generator=torch.Generator().manual_seed(2))
    for make, press in [(PiKVCache, None), (PiKVCache, KnormPress(0.5)), (lambda: PiKVCache("int4", "int4"), None)]:
        cache = make()
        with torch.no_grad(), press(model) if press else torch.no_grad():
            model.model(context, past_key_values=cache)
        cache.save(path)
        assert cache.nbytes <= path.stat().st_size < 1.02 * cache.nbytes


def test_opening_reads_nothing(llama, path):
    filled(llama, "int8/int4", 3).save(path)
    loaded = PiKVCache.load(path, llama)
    assert loaded.get_seq_length() == LENGTH + 3 and loaded.nbytes > 0
    layers = loaded.layers
    assert all(isinstance(layer, SavedLayer) and "entries" not in layer.__dict__ for layer in layers)
    layers[0].settle()
    assert "entries" in layers[0].__dict__ and "entries" not in layers[1].__dict__


def test_the_file_is_released_with_the_cache(llama, path):
    filled(llama, "int8/int4", 3).save(path)
    loaded = PiKVCache.load(path, llama)
    answer(llama, loaded, 1)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what a process has mapped")
    assert str(path) in maps.read_text()
    del loaded
    gc.collect()
    assert str(path) not in maps.read_text()
