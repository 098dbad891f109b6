"""A cache on tiers is the same cache, bit for bit, and takes less memory."""

from __future__ import annotations

import copy
import errno
import gc
import pickle

import pytest
import torch
from kvpress import AdaKVPress, KnormPress
from transformers import AutoModelForCausalLM, LlamaConfig

from pikvpress import PiKVCache
from pikvpress.cache import Tiers
from pikvpress.cache.tiers import storage
from tests.cache.saving.cases import CACHES, answer, filled, ids, read
from tests.conftest import SIZES

FILE = {"device": 0.25, "file": 0.75}
PLAIN = ["dense", "ragged", "int8/int4", "ragged and packed", "h2o, int8/int4", "quest"]


@pytest.fixture(scope="module")
def deep():
    """Return a model of four layers, a quarter of which is one."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | {"num_hidden_layers": 4})).eval()


@pytest.fixture
def tiers(tmp_path):
    return Tiers(FILE, folder=tmp_path)


@pytest.fixture
def placed(monkeypatch):
    """Return a function that returns a cache of a kind with tiers, filled as `filled` does."""
    original = PiKVCache.__init__

    def make(model, kind, tiers, later=0):
        def begun(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.place(tiers)

        with monkeypatch.context() as patch:
            patch.setattr(PiKVCache, "__init__", begun)
            return filled(model, kind, later)

    return make


@pytest.mark.parametrize("kind", CACHES)
def test_outputs_are_the_same_to_the_last_bit(kind, llama, tiers, placed):
    plain, cache = filled(llama, kind, 70), placed(llama, kind, tiers, 70)
    assert cache.tiers is tiers and cache.get_seq_length() == plain.get_seq_length()
    cache.settle()
    assert cache.nbytes == plain.nbytes and sum(cache.tier_bytes().values()) == cache.nbytes
    assert torch.equal(answer(llama, cache, 8), answer(llama, plain, 8))
    assert [layer.counts() for layer in cache.layers] == [layer.counts() for layer in plain.layers]


@pytest.mark.parametrize("kind", ["dense", "ragged and packed"])
def test_a_long_answer_without_prefetch(kind, llama, tmp_path, placed):
    """The layers are written again several times meanwhile."""
    cache = placed(llama, kind, Tiers(FILE, folder=tmp_path, prefetch=False))
    assert torch.equal(answer(llama, cache, 150), answer(llama, filled(llama, kind), 150))


@pytest.mark.parametrize("kind", ["dense", "int8/int4"])
def test_no_more_than_the_budget_is_on_the_device(kind, deep, tiers, placed):
    cache = placed(deep, kind, tiers)
    cache.settle()
    found = cache.tier_bytes()
    assert found["device"] <= 0.25 * cache.nbytes and found["file"] >= 0.7 * cache.nbytes and found["host"] == 0
    before = [layer.tier_bytes() for layer in cache.layers]
    text = str(cache)
    assert "25% device, 75% file" in text and "KiB on tiers" in text
    assert [layer.tier_bytes() for layer in cache.layers] == before, "measuring must not fetch anything"
    answer(deep, cache, 3)
    cache.settle()
    assert cache.tier_bytes()["device"] <= 0.3 * cache.nbytes  # with three exact entries of every layer


def test_budgets_in_bytes(deep, tmp_path, placed):
    whole = filled(deep, "dense").nbytes
    tiers = Tiers(max_bytes={"device": whole // 2, "host": whole // 4}, folder=tmp_path)
    cache = placed(deep, "dense", tiers)
    cache.settle()
    assert cache.tier_bytes() == {"device": whole // 2, "host": whole // 4, "file": whole // 4}
    assert torch.equal(answer(deep, cache, 3), answer(deep, filled(deep, "dense"), 3))


@pytest.mark.parametrize("kind", PLAIN)
def test_it_is_cropped_copied_and_saved(kind, llama, tiers, tmp_path, placed):
    plain, cache = filled(llama, kind, 3), placed(llama, kind, tiers, 3)
    length = cache.get_seq_length() - 3
    cache.save(tmp_path / "saved.safetensors")
    twins = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
    twins.append(PiKVCache.load(tmp_path / "saved.safetensors", llama))
    for twin in twins:
        assert twin.nbytes == cache.nbytes and twin.get_seq_length() == cache.get_seq_length()
    assert [twin.tiers for twin in twins] == [tiers, tiers, None]
    cache.crop(length)
    plain.crop(length)
    assert torch.equal(answer(llama, cache, 4), answer(llama, plain, 4))
    plain = filled(llama, kind, 3)
    expected = answer(llama, plain, 4)
    del cache
    assert all(torch.equal(answer(llama, twin, 4), expected) for twin in twins)


@pytest.mark.parametrize("kind", ["dense", "ragged and packed", "h2o"])
def test_rows_are_repeated_and_reordered(kind, llama, tiers, placed):
    results = []
    for cache in (filled(llama, kind, 3), placed(llama, kind, tiers, 3)):
        cache.batch_repeat_interleave(3)
        length = cache.get_seq_length()
        logits = [read(llama, cache, torch.tensor([[5], [6], [7]]))]
        cache.reorder_cache(torch.tensor([2, 2, 0]))
        logits.append(read(llama, cache, torch.tensor([[8], [9], [8]])))
        cache.batch_select_indices(torch.tensor([1]))
        logits.append(read(llama, cache, torch.tensor([[3]])))
        assert cache.get_seq_length() == length + 3
        results.append(torch.cat(logits))
    assert torch.equal(*results)


@torch.no_grad()
def test_beams(llama, tiers):
    settings = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = [
        llama.generate(ids(), past_key_values=cache, **settings) for cache in (PiKVCache(), PiKVCache(tiers=tiers))
    ]
    assert torch.equal(*found)


def test_tiers_can_change_between_two_tokens(llama, tiers, tmp_path, placed):
    cache, plain = placed(llama, "ragged and packed", tiers), filled(llama, "ragged and packed")
    (tmp_path / "other").mkdir()
    for other in (Tiers({"file": 1}, folder=tmp_path / "other"), {"device": 1}, None):
        cache.place(other)
        found = cache.tier_bytes()
        assert found["file" if isinstance(other, Tiers) else "device"] == cache.nbytes
        assert torch.equal(answer(llama, cache, 2), answer(llama, plain, 2))
    assert cache.tiers is None and list((tmp_path / "other").iterdir()) == []


def test_a_mask_that_comes_late_is_heeded(llama, tiers):
    """As that of KVzip, which masks all layers at the end."""
    results = []
    for cache in (PiKVCache(), PiKVCache(tiers=tiers)):
        with torch.no_grad():
            llama.model(ids(), past_key_values=cache)
        cache.place(cache.tiers)
        for layer in llama.model.layers:
            layer.self_attn.masked_key_indices = tuple(torch.tensor([0]) for _ in range(3))
        nbytes = cache.nbytes
        results.append((nbytes, answer(llama, cache, 2)))
        assert cache.layers[0].counts() == [[201, 202]]
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])


def test_files_go_with_the_cache(llama, tiers, tmp_path, placed):
    cache = placed(llama, "dense", tiers)
    cache.settle()
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"layer-0.safetensors", "layer-1.safetensors"}
    del cache
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    hook = llama.model.layers[1].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        placed(llama, "dense", tiers)
    hook.remove()
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_a_full_disk_leaves_the_cache_whole(llama, tiers, tmp_path, monkeypatch, placed):
    cache, plain = placed(llama, "ragged", tiers), filled(llama, "ragged")
    cache.batch_select_indices(torch.tensor([0]))  # so that the layers have to be written again
    held, length = cache.nbytes, cache.get_seq_length()
    cache.place(None)
    cache.place(tiers)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_sections", full)
        cache.batch_select_indices(torch.tensor([0]))  # stays in memory
        with pytest.raises(OSError, match=r"No space left on device: layer .* cannot be moved to a file, so it stays"):
            answer(llama, cache, 1)
        assert cache.nbytes == held and cache.get_seq_length() == length and cache.tier_bytes()["file"] == 0
        with pytest.raises(OSError, match="No space left"):
            llama.model(ids(), past_key_values=(empty := PiKVCache(tiers=tiers)))
        assert empty.get_seq_length() == 0
    assert torch.equal(answer(llama, cache, 3), answer(llama, plain, 3))


@torch.no_grad()
def test_gradients_stay_on_the_device(llama, tiers):
    cache = PiKVCache(tiers=tiers)
    with torch.enable_grad():
        llama(ids()[:, :20], past_key_values=cache).logits.sum().backward()
    cache.settle()
    assert cache.tier_bytes()["file"] == 0


def test_inference_mode(llama, tiers):
    found = []
    for cache in (PiKVCache(), PiKVCache(tiers=tiers)):
        with torch.inference_mode(), AdaKVPress(KnormPress(0.5))(llama):
            llama.model(ids(), past_key_values=cache)
        with torch.inference_mode():
            found.append(torch.cat([read(llama, cache, torch.tensor([[5]])) for _ in range(3)]))
    assert torch.equal(*found)
