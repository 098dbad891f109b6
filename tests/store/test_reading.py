"""What is stored is not read again, and nothing that a model returns depends on whether it was."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from kvpress import (
    DecodingPress,
    DMSPress,
    FinchPress,
    KeyRerotationPress,
    KnormPress,
    KVzipPress,
    PrefillDecodingPress,
)
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from pikvpress import PiKVCache, PiKVPress
from pikvpress.cache import saved_cache
from pikvpress.cache.saving import file as saving_file
from pikvpress.store import FolderStore
from tests.cache.saving.test_whole import rewrite
from tests.conftest import make_tiny
from tests.store.cases import KINDS, LENGTH, REST, counted, text, two_stretches
from tests.vision import make_vision

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def generated(model, cache, ids, tokens=4):
    """Return tokens and their logits."""
    settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    outputs = model.generate(ids, past_key_values=cache, max_new_tokens=tokens, **settings)
    return outputs.sequences, torch.stack(outputs.logits)


def alike(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "moved"])
def test_a_known_prompt_is_not_read_and_the_answer_is_the_same(kind, llama, store):
    press, cache = KINDS[kind]
    ids = text()
    with counted(llama) as read, press()(llama) if press() else torch.no_grad():
        expected = generated(llama, plain := cache(), ids)
    for known in (0, ids.shape[1]):
        with counted(llama) as read, store.reading(llama, press()) as reading:
            found = generated(llama, held := cache(), ids)
        assert alike(found, expected) and held.nbytes == plain.nbytes and str(held) == str(plain)
        assert read == [*([] if known else [ids.shape[1]]), 1, 1, 1]
        assert (reading.length, reading.known, reading.failure) == (ids.shape[1], known, None)
    assert len(store.contexts()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rest", [REST, 1])
def test_a_prompt_goes_on_from_a_stored_prefix_as_from_a_first_stretch(kind, rest, llama, store):
    press, make = KINDS[kind]
    ids = text()[:, : LENGTH + rest]
    if kind == "moved":
        with store.reading(llama, press()):
            llama.model(ids[:, :LENGTH], past_key_values=make())
            with counted(llama) as read:
                llama.model(ids, past_key_values=make())
        assert read == [LENGTH + rest]
        return
    expected = two_stretches(llama, press(), plain := make(), ids)
    with store.reading(llama, press()) as reading:
        llama.model(ids[:, :LENGTH], past_key_values=make())
        with counted(llama) as read:
            found = llama(ids, past_key_values=(held := make()), logits_to_keep=1).logits
    assert torch.equal(found, expected) and held.nbytes == plain.nbytes
    assert read == [rest] and (reading.length, reading.known) == (LENGTH + rest, LENGTH)
    assert [one.key.length for one in store.contexts()] == [LENGTH]  # what went on is not stored
    assert alike(*(generated(llama, one, torch.cat([ids, ids[:, :3]], 1)) for one in (held, plain)))


def test_generating_from_a_stored_prefix(llama, store):
    ids, press = text(), PiKVPress(0.8, gates=None)
    expected = [two_stretches(llama, press, plain := PiKVCache(), ids)[:, -1]]
    for place in range(ids.shape[1], ids.shape[1] + 3):
        token = expected[-1].argmax(dim=-1, keepdim=True)
        logits = llama(token, past_key_values=plain, position_ids=torch.full((1, 1), place)).logits
        expected.append(logits[:, -1])
    with store.reading(llama, press):
        llama.model(ids[:, :LENGTH], past_key_values=PiKVCache())
        with counted(llama) as read:
            _, logits = generated(llama, PiKVCache(), ids)
    assert read == [REST, 1, 1, 1] and torch.equal(logits, torch.stack(expected))


def test_a_short_prefix_is_used_only_if_it_is_wanted(llama, store):
    ids = text()
    with store.reading(llama):
        llama.model(ids[:, :70], past_key_values=PiKVCache())
    for share, expected in ((0.5, LENGTH), (0.3, LENGTH - 70)):
        with counted(llama) as read, store.reading(llama, prefix_share=share):
            llama.model(ids[:, :LENGTH], past_key_values=PiKVCache())
        assert read == [expected]
        for one in store.contexts():
            if one.key.length == LENGTH:
                store.remove(one.key)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1\.5"), store.reading(llama, prefix_share=1.5):
        pass


def test_batches_without_padding(llama, store):
    ids = text(3)
    expected = generated(llama, PiKVCache("int4"), ids)
    with store.reading(llama):
        for known in (False, True):
            with counted(llama) as read:
                assert alike(generated(llama, PiKVCache("int4"), ids), expected)
            assert read[:1] == ([1] if known else [LENGTH + REST])


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3_moe", "phi3"])
def test_other_architectures_in_half_precision(architecture, store):
    model, ids = make_tiny(architecture, dtype=torch.bfloat16), text()
    expected = generated(model, PiKVCache("int8", "int4", window=16), ids)
    for _ in range(2):
        with store.reading(model) as reading:
            assert alike(generated(model, PiKVCache("int8", "int4", window=16), ids), expected)
    assert reading.known == ids.shape[1]


def test_a_cache_that_was_used_before_and_decoding_are_left_alone(llama, store):
    ids, cache = text(), PiKVCache()
    llama.model(ids, past_key_values=cache)
    with counted(llama) as read, store.reading(llama) as reading:
        llama.model(ids[:, :5], past_key_values=cache)
        cache.reset()
        llama.model(ids[:, :5], past_key_values=cache)
        llama.model(past_key_values=PiKVCache(), input_ids=ids[:, :5])
        llama.model(ids[:, :5], None, None, PiKVCache())  # all by position
    assert read == [5, 5] and reading.known == 5


def test_another_model_or_press_is_not_mistaken(llama, store):
    twin = make_tiny("llama")
    with store.reading(llama, KnormPress(0.5)):
        llama.model(text(), past_key_values=PiKVCache())
    twin.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
    for model, press, cache, known in (
        (make_tiny("llama"), KnormPress(0.5), PiKVCache(), True),
        (twin, KnormPress(0.5), PiKVCache(), False),
        (llama, KnormPress(0.4), PiKVCache(), False),
        (llama, None, PiKVCache(), False),
        (llama, KnormPress(0.5), PiKVCache("int4"), False),
    ):
        with store.reading(model, press) as reading:
            model.model(text(), past_key_values=cache)
        assert bool(reading.known) == known
    assert len(store.contexts()) == 5


def test_what_is_changed_meanwhile_is_noticed(llama, store):
    press = KnormPress(0.5)
    with store.reading(llama, press) as reading:
        for ratio, known in ((0.5, False), (0.4, False), (0.5, True)):
            press.compression_ratio = ratio
            llama.model(text(), past_key_values=PiKVCache())
            assert bool(reading.known) == known
        llama.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-3
        llama.model(text(), past_key_values=PiKVCache())
        assert not reading.known
    assert len(store.contexts()) == 3


def spoil_nothing(path, other):
    return


def flip(path, other):
    stored = bytearray(path.read_bytes())
    stored[-500] ^= 1
    path.write_bytes(stored)


def truncate(path, other):
    path.write_bytes(path.read_bytes()[:-500])


def replace_with_foreign(path, other):
    path.write_bytes(b"something else")


def replace_with_another(path, other):
    shutil.copyfile(other, path)


def forget_output(path, other):
    rewrite(path, lambda contents: contents | {"output": None})


def make_newer(path, other):
    before, saving_file.VERSION = saving_file.VERSION, 9
    try:
        rewrite(path, lambda contents: contents)
    finally:
        saving_file.VERSION = before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_nothing, None),
        (flip, "has been altered since it was written"),
        (truncate, "bytes, not the"),
        (replace_with_foreign, "is not a saved cache"),
        (replace_with_another, "other token ids"),
        (forget_output, "larger|does not say|cannot be loaded"),
        (make_newer, "written by a newer version of pikvpress"),
    ],
)
def test_damaged_files_are_read_again_and_replaced(spoil, told, llama, store, caplog, monkeypatch):
    ids = text()
    expected = generated(llama, PiKVCache("int4"), ids)
    with store.reading(llama):
        llama.model(text(seed=9), past_key_values=PiKVCache("int4"))
        (other,) = (one.path for one in store.contexts())
        llama.model(ids, past_key_values=PiKVCache("int4"))
        (path,) = (one.path for one in store.contexts() if one.path != other)
        spoil(path, other)
        caplog.set_level(logging.WARNING)
        with counted(llama) as read:
            assert alike(generated(llama, PiKVCache("int4"), ids), expected)
        with counted(llama) as again:
            assert alike(generated(llama, PiKVCache("int4"), ids), expected)
    assert (read[0] == ids.shape[1]) == (told is not None) and again == [1, 1, 1]
    assert (caplog.text == "") == (told is None) and store.damaged() == []
    if told is not None:
        assert any(one in caplog.text for one in told.split("|"))


def test_what_is_removed_meanwhile_is_read_again(llama, store, monkeypatch):
    ids, find = text(), FolderStore.find

    def removed_at_once(self, keys, least):
        for key, path in find(self, keys, least):
            self.remove(key)
            yield key, path

    with store.reading(llama) as reading:
        llama.model(ids, past_key_values=PiKVCache())
        monkeypatch.setattr(FolderStore, "find", removed_at_once)
        llama.model(ids, past_key_values=PiKVCache())
        assert reading.known == 0 and len(store.contexts()) == 1


def test_an_answer_does_not_depend_on_room_in_the_store(llama, tmp_path, caplog):
    store, ids = FolderStore(tmp_path / "small", max_bytes=1000), text()
    with store.reading(llama) as reading:
        found = generated(llama, PiKVCache(), ids)
    assert alike(found, generated(llama, PiKVCache(), ids))
    assert "was read but not stored: this context takes" in caplog.text and "max_bytes" in str(reading.failure)
    assert store.contexts() == []


def test_a_failed_reading_stores_nothing(llama, store):
    hook = llama.model.layers[1].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with store.reading(llama, KnormPress(0.5)) as reading:
        with pytest.raises(ZeroDivisionError):
            llama.model(text(), past_key_values=PiKVCache())
        hook.remove()
        assert store.contexts() == []
        cache = PiKVCache()
        llama.model(text(), past_key_values=cache)
        assert reading.known == 0 and len(store.contexts()) == 1
    assert "forward" not in vars(llama.model)


@pytest.mark.parametrize("press", [None, PiKVPress(0.8, gates=None)], ids=["none", "PiKVPress"])
def test_a_failure_after_a_stored_prefix_leaves_the_cache_empty(press, llama, store):
    ids, cache = text(), PiKVCache()
    expected = two_stretches(llama, press, PiKVCache(), ids)
    with store.reading(llama, press):
        llama.model(ids[:, :LENGTH], past_key_values=PiKVCache())
        hook = llama.model.layers[1].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llama.model(ids, past_key_values=cache)
        hook.remove()
        assert cache.get_seq_length() == 0 and cache.nbytes == 0
        assert torch.equal(llama(ids, past_key_values=cache, logits_to_keep=1).logits, expected)


def test_the_file_says_what_it_is(llama, store):
    press = PiKVPress(0.8, gates=None)
    with store.reading(llama, press):
        llama.model(text(), past_key_values=PiKVCache())
    about = saved_cache(store.contexts()[0].path)
    assert about.press["press"] == "PiKVPress" and len(about.plan.layers) == 2 and about.version == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"past_key_values": None}, r"not a NoneType: call the model with past_key_values=PiKVCache\(\)"),
        ({"past_key_values": DynamicCache()}, "not a DynamicCache"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 9, 64)}, "finds contexts by their token ids"),
        ({"attention_mask": torch.tensor([[0] + [1] * (LENGTH + REST - 1)])}, "padded batches and other masks"),
        ({"attention_mask": torch.zeros(1, 1, 9, 9)}, "padded batches and other masks"),
        ({"position_ids": torch.arange(1, LENGTH + REST + 1)[None]}, "from position 0 on"),
    ],
)
def test_what_cannot_be_stored_is_refused(arguments, message, llama, store):
    cache = PiKVCache()
    with store.reading(llama), pytest.raises(ValueError, match=message):
        llama.model(**{"input_ids": text(), "past_key_values": cache} | arguments)
    assert cache.get_seq_length() == 0 and store.contexts() == []


@pytest.mark.parametrize(
    "press",
    [
        KVzipPress(0.5),
        DecodingPress(KnormPress()),
        PrefillDecodingPress(KnormPress(0.5), DecodingPress(KnormPress())),
        FinchPress(0.5),
        DMSPress(KnormPress(), threshold=0.5, decoding=True),
    ],
    ids=lambda press: type(press).__name__,
)
def test_presses_that_finish_later_are_refused(press, llama, store):
    with pytest.raises(ValueError, match="is not finished with a cache when the model has read the context"):
        store.reading(llama, press).__enter__()
    assert not llama.model._forward_hooks and "forward" not in vars(llama.model)


def test_models_that_cannot_be_compressed_are_refused(store):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=64))
    with pytest.raises(ValueError, match="cannot be compressed"):
        store.reading(model).__enter__()


def test_a_press_that_moves_keys_is_known_exactly(llama, store):
    press = KeyRerotationPress(KnormPress(0.5))
    caches = [PiKVCache(), PiKVCache()]
    for cache in caches:
        with store.reading(llama, press) as reading:
            llama.model(text(), past_key_values=cache)
    assert reading.known == LENGTH + REST and torch.equal(caches[0].layers[1].keys, caches[1].layers[1].keys)


def test_models_that_read_images_are_refused(store):
    with pytest.raises(ValueError, match="the same for all images of a size"), store.reading(make_vision("smolvlm")):
        pass
