"""PiKVCache in the place of a DynamicCache, and what is gone from it."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from kvpress import AdaKVPress, CriticalAdaKVPress, KnormPress, PyramidKVPress, ThinKPress
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from pikvpress import PiKVCache, models
from pikvpress.cache import reader
from pikvpress.kernels.ragged_attention import triton
from tests.conftest import CONFIGS, make_tiny

CONTEXT, NEW = 200, 6


@pytest.fixture
def ids():
    return torch.randperm(511, generator=torch.Generator().manual_seed(3))[None, :CONTEXT] + 1


@pytest.fixture
def question():
    return torch.arange(20, 20 + NEW)[None]


@torch.no_grad()
def read(model, ids, cache, press=None):
    if press is None:
        model.model(input_ids=ids, past_key_values=cache)
    else:
        with press(model):
            model.model(input_ids=ids, past_key_values=cache)
    return cache


@torch.no_grad()
def ask(model, question, cache, start=CONTEXT):
    """Return logits behind a question of several tokens, then of each of its tokens again, one by one."""
    ids = torch.cat([question, question], dim=1)
    positions = torch.arange(start, start + ids.shape[1])[None]
    first = model(input_ids=question, past_key_values=cache, position_ids=positions[:, :NEW]).logits
    rest = [
        model(input_ids=ids[:, i : i + 1], past_key_values=cache, position_ids=positions[:, i : i + 1]).logits
        for i in range(NEW, 2 * NEW)
    ]
    return torch.cat([first, *rest], dim=1)


def masked_run(model, ids, question, press):
    logits = ask(model, question, read(model, ids, DynamicCache(), press))
    for layer in models.attention_layers(model):
        layer.masked_key_indices = None
    return logits


@pytest.mark.parametrize("architecture", CONFIGS)
def test_without_a_press_it_is_a_dynamic_cache_to_the_last_bit(architecture, ids, question):
    model = make_tiny(architecture)
    ours, theirs = read(model, ids, PiKVCache()), read(model, ids, DynamicCache())
    assert torch.equal(ask(model, question, ours), ask(model, question, theirs))
    assert ours.get_seq_length() == theirs.get_seq_length() == CONTEXT + 2 * NEW


def test_rectangles_of_presses_are_held_as_they_are(llama, ids, question):
    press = KnormPress(0.5)
    ours, theirs = read(llama, ids, PiKVCache(), press), read(llama, ids, DynamicCache(), press)
    assert ours.nbytes == 2 * sum(layer.keys.nbytes for layer in theirs.layers)
    assert torch.equal(ask(llama, question, ours), ask(llama, question, theirs))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_masked_entries_are_gone_and_nothing_else_changes(architecture, ids, question):
    model = make_tiny(architecture)
    press = AdaKVPress(KnormPress(0.6))
    expected = masked_run(model, ids, question, press)
    cache = read(model, ids, PiKVCache(), press)
    compressed = [layer for layer in models.attention_layers(model) if not models.is_sliding(layer)]
    whole = sum(2 * 2 * CONTEXT * layer.head_dim * 4 for layer in models.attention_layers(model))
    share = 0.4 if len(compressed) == 2 else 0.7
    held = cache.nbytes
    assert held == pytest.approx(share * whole, rel=0.01)
    cache.settle()
    assert cache.nbytes == held
    assert all(layer.masked_key_indices is None for layer in compressed if hasattr(layer, "masked_key_indices"))
    torch.testing.assert_close(ask(model, question, cache), expected, atol=1e-4, rtol=1e-4)
    assert cache.get_seq_length() == CONTEXT + 2 * NEW


def test_critical_adakv_too(llama, ids, question):
    press = CriticalAdaKVPress(KnormPress(0.5))
    expected = masked_run(llama, ids, question, press)
    cache = read(llama, ids, PiKVCache(), press)
    torch.testing.assert_close(ask(llama, question, cache), expected, atol=1e-4, rtol=1e-4)


def test_layers_may_have_different_lengths(llama, ids, question):
    """kvpress's PyramidKVPress leaves them, and sdpa then fails on a DynamicCache."""
    press = PyramidKVPress(0.5, window_size=16)
    cache = read(llama, ids, PiKVCache(), press)
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths[0] > lengths[1]
    logits = ask(llama, question, cache)
    for layer, length in zip(cache.layers, lengths, strict=True):
        layer.crop(length)
    one_by_one = torch.cat(
        [
            llama(
                input_ids=question[:, i : i + 1], past_key_values=cache, position_ids=torch.tensor([[CONTEXT + i]])
            ).logits
            for i in range(NEW)
        ],
        dim=1,
    )
    torch.testing.assert_close(logits[:, :NEW], one_by_one, atol=1e-4, rtol=1e-4)


def test_channels_that_think_clears_take_no_bytes(llama, ids, question):
    press = ThinKPress(key_channel_compression_ratio=0.5)
    exact = ask(llama, question, read(llama, ids, DynamicCache(), press))
    cache = read(llama, ids, PiKVCache("int8", "int8", window=0), press)
    whole = 2 * 2 * 2 * CONTEXT * 16
    assert cache.nbytes < whole * (0.75 + 0.2)
    assert (ask(llama, question, cache) - exact).abs().max() < 0.1


@pytest.mark.parametrize(("name", "tolerance"), [("int8", 0.02), ("int4", 0.5)])
def test_codecs_keep_what_they_can_in_fewer_bytes(name, tolerance, llama, ids, question):
    exact = ask(llama, question, read(llama, ids, DynamicCache()))
    cache = read(llama, ids, PiKVCache(name, name, window=16))
    assert (ask(llama, question, cache) - exact).abs().max() < tolerance
    whole = 2 * 2 * 2 * CONTEXT * 16 * 4
    assert cache.nbytes < 0.5 * whole


def test_questions_in_turn_are_questions_alone(llama, ids, question):
    questions = [question, question + 30, question + 60]
    alone = [ask(llama, one, read(llama, ids, PiKVCache("int4", "int4", window=8))) for one in questions]
    cache = read(llama, ids, PiKVCache("int4", "int4", window=8))
    for one, expected in zip(questions, alone, strict=True):
        assert torch.equal(ask(llama, one, cache), expected)
        cache.crop(CONTEXT)


def test_low_rank_contexts(llama, ids, question):
    exact = ask(llama, question, read(llama, ids, DynamicCache()))
    errors = []
    for name in ("rank4", "rank12", "rank12+int4"):
        cache = read(llama, ids, PiKVCache(name, name, window=8))
        errors.append((ask(llama, question, cache) - exact).abs().mean())
        assert cache.nbytes < 0.6 * 2 * 2 * 2 * CONTEXT * 16 * 4
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("grad", [False, True])
def test_cutting_what_stands_for_keys_crops_the_layer(grad, llama, ids, question):
    """As kvpress's pipeline does after every answer, layer by layer, keys and values."""
    cache = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    first = ask(llama, question, cache)
    with torch.set_grad_enabled(grad):
        for layer in cache.layers:
            layer.keys = layer.keys[:, :, :CONTEXT]
            layer.values = layer.values[:, :, :CONTEXT]
    assert cache.nbytes == held and cache.get_seq_length() == CONTEXT
    assert torch.equal(ask(llama, question, cache), first)


@torch.no_grad()
def test_what_follows_is_packed_group_by_group(llama, ids):
    cache = read(llama, ids, PiKVCache("int8", "int8", window=10))
    exact = read(llama, ids, DynamicCache())
    more = torch.randint(1, 500, (1, 300), generator=torch.Generator().manual_seed(1))
    for start in range(0, 300, 7):
        piece = more[:, start : start + 7]
        positions = torch.arange(CONTEXT + start, CONTEXT + start + piece.shape[1])[None]
        ours = llama(input_ids=piece, past_key_values=cache, position_ids=positions).logits
        theirs = llama(input_ids=piece, past_key_values=exact, position_ids=positions).logits
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
    layer = cache.layers[0]
    assert layer.entries.compressed.decoded.length == 256 and layer.entries.tail.keys.shape[2] == 44
    assert cache.get_seq_length() == CONTEXT + 300
    before = cache.nbytes
    cache.crop(CONTEXT + 100)  # 64 stay packed, 36 are unpacked
    assert (
        layer.entries.compressed.decoded.length == 64
        and layer.entries.tail.keys.shape[2] == 36
        and cache.nbytes < before
    )
    cache.crop(-40)
    assert layer.entries.compressed.decoded is None and layer.entries.tail.keys.shape[2] == 60


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}]
)
@pytest.mark.parametrize("padded", [False, True])
def test_generate_is_as_with_a_dynamic_cache(settings, padded, llama, ids):
    both = torch.cat([ids[:, :50], ids[:, 50:100]])
    mask = torch.ones_like(both)
    if padded:
        mask[1, :20] = 0
        both = both.masked_fill(mask == 0, 0)
    results = []
    for cache in (DynamicCache(), PiKVCache(), PiKVCache("int8", "int8", window=8)):
        torch.manual_seed(0)
        results.append(
            llama.generate(
                both, attention_mask=mask, past_key_values=cache, max_new_tokens=20, min_new_tokens=20, **settings
            )
        )
    assert torch.equal(results[0], results[1])
    assert (results[0] == results[2]).float().mean() > 0.8


@torch.no_grad()
def test_generate_with_a_press_that_masks(llama, ids):
    length = {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False}
    generated = []
    for cache in (DynamicCache(), PiKVCache()):
        with AdaKVPress(KnormPress(0.5))(llama):
            generated.append(llama.generate(ids, past_key_values=cache, **length))
        for layer in models.attention_layers(llama):
            layer.masked_key_indices = None
    assert torch.equal(*generated)


def test_a_copy_goes_its_own_way(llama, ids, question):
    for press in (None, AdaKVPress(KnormPress(0.5))):
        cache = read(llama, ids, PiKVCache(), press)
        copy = deepcopy(cache)
        first = ask(llama, question, cache)
        assert copy.get_seq_length() == CONTEXT < cache.get_seq_length()
        torch.testing.assert_close(ask(llama, question, copy), first)


@torch.no_grad()
def test_padding_is_not_held(llama, ids):
    both = torch.cat([ids[:, :50], ids[:, 50:100]])
    mask = torch.ones_like(both)
    mask[1, :20] = 0
    cache = PiKVCache("int8", "int8", window=8)
    llama(both, attention_mask=mask, past_key_values=cache)
    assert cache.layers[0].counts() == [[50, 50], [30, 30]]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_eager_attention_reads_it_too(architecture, ids, question):
    model = make_tiny(architecture)
    caches = [read(model, ids, PiKVCache("int8", "int8", window=20))]
    model.set_attn_implementation("eager")
    caches.append(read(model, ids, PiKVCache("int8", "int8", window=20)))
    exact = read(model, ids, PiKVCache())
    eager, plain = ask(model, question, caches[1]), ask(model, question, exact)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(eager, ask(model, question, caches[0]), atol=1e-2, rtol=1e-2)  # codes may flip
    torch.testing.assert_close(plain, ask(model, question, read(model, ids, DynamicCache())), atol=1e-4, rtol=1e-4)


def test_beams_and_batches_take_rows(llama, ids, question):
    press = AdaKVPress(KnormPress(0.5))
    cache = read(llama, ids, PiKVCache(), press)
    expected = ask(llama, question, cache)
    cache.crop(CONTEXT)
    cache.batch_repeat_interleave(3)
    both = ask(llama, question.expand(3, -1), cache)
    torch.testing.assert_close(both, expected.expand(3, -1, -1), atol=1e-5, rtol=1e-5)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.layers[0].entries.tail.keys.shape[0] == 1 and len(cache.layers[0].counts()) == 1


def test_reset_forgets_everything(llama, ids, question):
    cache = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    expected = ask(llama, question, cache)
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0
    read(llama, ids, cache, AdaKVPress(KnormPress(0.5)))
    assert torch.equal(ask(llama, question, cache), expected)


def test_caches_in_turn_keep_to_their_own_masks(llama, ids, question):
    """The mask lies on the model: reading another prompt must not lose it, nor apply it there."""
    expected = masked_run(llama, ids, question, AdaKVPress(KnormPress(0.5)))
    first = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    plain = read(llama, ids, PiKVCache())
    other = read(llama, ids, DynamicCache())
    torch.testing.assert_close(ask(llama, question, first), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(ask(llama, question, plain), ask(llama, question, other))


def test_the_table_says_what_is_held(llama, ids):
    cache = read(llama, ids, PiKVCache("int4", "int8", window=0), AdaKVPress(KnormPress(0.5)))
    text = str(cache)
    assert "int4" in text and "int8" in text and str(CONTEXT) in text
    assert str(PiKVCache()).strip()


def test_a_failed_forward_is_undone(llama, ids, question):
    cache = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    expected = ask(llama, question, cache)
    cache.crop(CONTEXT)
    handle = llama.model.layers[0].mlp.register_forward_pre_hook(
        lambda *args: (_ for _ in ()).throw(RuntimeError("no"))
    )
    with pytest.raises(RuntimeError, match="no"):
        ask(llama, question, cache)
    handle.remove()
    with pytest.raises(ValueError, match=f"ended in layer 0 of 2; .* back to the {CONTEXT} entries"):
        ask(llama, question, cache)
    assert cache.nbytes == held
    torch.testing.assert_close(ask(llama, question, cache), expected)


def test_bad_input(llama, ids, question):
    with pytest.raises(ValueError, match="unknown codec 'int5'"):
        PiKVCache("int5")
    with pytest.raises(ValueError, match="window must be at least 0"):
        PiKVCache("int4", window=-1)
    cache = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    held = cache.nbytes
    cache.crop(CONTEXT + 100)  # beyond the length, which transformers' caches take for nothing to do
    with pytest.raises(ValueError, match=f"has {CONTEXT} entries, and 300 of them cannot be forgotten"):
        cache.crop(-300)
    with pytest.raises(ValueError, match=f"compressed context of {CONTEXT} entries and cannot be cropped to 100"):
        cache.crop(100)
    with pytest.raises(ValueError, match="one length for all heads"):
        cache.layers[0].keys = torch.zeros(1, 2, 50, 16)
    with pytest.raises(ValueError, match="holds compressed entries already"):
        cache.pack("int4", "int4")
    with pytest.raises(ValueError, match="wants one tensor: a press that compresses again"):
        cache.layers[0].keys.sum()
    assert cache.nbytes == held and cache.get_seq_length() == CONTEXT


def test_models_that_do_not_look_their_attention_up(llama, ids, question, monkeypatch):
    """As models of one's own may, and every model in eager mode before transformers 5."""
    cache = read(llama, ids, PiKVCache(), AdaKVPress(KnormPress(0.5)))
    monkeypatch.setattr(AttentionInterface, "get_interface", lambda *args: eager_attention_forward)
    with pytest.raises(ValueError, match="the model must look its attention function up with transformers"):
        ask(llama, question, cache)
    with pytest.raises(ValueError, match="read by an attention function that the model looks up with transformers"):
        read(llama, ids, PiKVCache("int4", "int4"))


def test_attention_functions_registered_later_read_it_too(llama, ids, question, monkeypatch):
    expected = ask(llama, question, read(llama, ids, PiKVCache("int8", "int4"), AdaKVPress(KnormPress(0.5))))
    monkeypatch.setitem(AttentionInterface._global_mapping, "registered_later", sdpa_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "registered_later", sdpa_mask)
    llama.set_attn_implementation("registered_later")
    cache = read(llama, ids, PiKVCache("int8", "int4"), AdaKVPress(KnormPress(0.5)))
    torch.testing.assert_close(ask(llama, question, cache), expected)


def test_packing_by_hand(llama, ids, question):
    cache = read(llama, ids, PiKVCache())
    cache.pack("int8", "int4", window=4)
    again = read(llama, ids, PiKVCache("int8", "int4", window=4))
    assert torch.equal(ask(llama, question, cache), ask(llama, question, again))


@torch.no_grad()
@pytest.mark.parametrize("names", [("exact", "exact"), ("int3", "int4"), ("rank4", "int4")])
def test_kernels_read_what_the_definition_reads(names, llama, ids, monkeypatch):
    """Behind masked entries, with a group that is packed while decoding, in a copy."""

    def answers():
        cache = read(llama, ids, PiKVCache(*names, window=1), AdaKVPress(KnormPress(0.5)))
        first = llama(input_ids=ids[:, :65].flip(1), past_key_values=cache).logits
        assert names[1] == "exact" or cache.layers[0].entries.compressed.decoded is not None
        cache = deepcopy(cache)
        return torch.cat(
            [first, *(llama(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in (1, 2))], 1
        )

    expected = answers()
    monkeypatch.setattr(reader, "attend", triton.attend)
    torch.testing.assert_close(answers(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_padded_is_not_packed_until_it_is_cropped(llama, ids):
    cache = read(llama, ids, PiKVCache("int4", "int4", window=0))
    layer, more = cache.layers[0], ids[:, :63]
    seen = torch.ones(1, CONTEXT + 63, dtype=torch.long)
    seen[:, CONTEXT : CONTEXT + 4] = 0
    llama(input_ids=more, past_key_values=cache, attention_mask=seen)
    for _ in range(3):
        seen = torch.nn.functional.pad(seen, (0, 1), value=1)
        llama(input_ids=more[:, :1], past_key_values=cache, attention_mask=seen)
    assert layer.entries.compressed.decoded is None and layer.entries.tail.keys.shape[2] == 66
    cache.crop(CONTEXT)
    llama(input_ids=more, past_key_values=cache)
    llama(input_ids=more[:, :1], past_key_values=cache)
    assert layer.entries.compressed.decoded is not None and layer.entries.tail.keys.shape[2] == 0
