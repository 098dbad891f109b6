"""Wrappers that would undo a press's decisions are rejected before the model runs; others are not."""

from __future__ import annotations

import pytest
import torch
from kvpress import (
    AdaKVPress,
    CAMPress,
    ComposedPress,
    CompressionRatioDecodingPress,
    DecodingPress,
    KeyRerotationPress,
    KnormPress,
    PerLayerCompressionPress,
    PrefillDecodingPress,
)
from transformers import DynamicCache

from pikvpress import FastVPress, MoERouterPress, PiKVCache, PiKVPress
from pikvpress.presses.wrappers import wrappers_of


def moe(budgets):
    return MoERouterPress(0.5, gates=None, budgets=budgets)


DECODING = DecodingPress(KnormPress(), 4, 48)
GOES_ON = MoERouterPress(0.5, gates=None, decoding="h2o")
REFUSED = {
    "by ratio": (CompressionRatioDecodingPress(moe("adakv"), 4), "cannot be used in CompressionRatioDecodingPress"),
    "and merged": (CAMPress(moe("adakv"), 4, 48), r"budgets='adakv'\) cannot be used in CAMPress"),
    "pyramid while decoding": (DecodingPress(moe("pyramid"), 4, 48), "repeatedly compresses to one size during"),
    "adakv while decoding": (DecodingPress(moe("adakv"), 4, 48), "use it without a wrapper, or budgets='equal'"),
    "global while decoding": (DecodingPress(moe("global"), 4, 48), r"budgets='global'\) cannot be used"),
    "deep inside": (
        PrefillDecodingPress(None, DecodingPress(moe("pyramid"), 4, 48)),
        "cannot be used in DecodingPress",
    ),
    "PiKVPress before decoding": (PrefillDecodingPress(PiKVPress(0.5), DECODING), "compresses entries again"),
    "masks before decoding": (PrefillDecodingPress(moe("adakv"), DECODING), "cannot be used in PrefillDecodingPress"),
    "nothing to do while decoding": (
        PrefillDecodingPress(KnormPress(0.5), moe("equal")),
        r"would do nothing as a decoding press: set decoding=True, or use DecodingPress\(base_press=MoERouterPress",
    ),
    "both": (
        PrefillDecodingPress(GOES_ON, GOES_ON),
        "decoding='h2o' compresses a prompt and what follows, each once: use it without PrefillDecodingPress",
    ),
    "before decoding": (PrefillDecodingPress(GOES_ON, DECODING), "or as the decoding press of PrefillDecodingPress"),
    "while decoding, in another": (
        ComposedPress([KnormPress(0.5), PrefillDecodingPress(None, GOES_ON)]),
        "ComposedPress|decoding works without a wrapper",
    ),
    "masks before another": (ComposedPress([moe("adakv"), KnormPress(0.2)]), "lets another press select from the kept"),
    "PiKVPress before another": (ComposedPress([PiKVPress(0.5), KnormPress(0.2)]), "cannot be used in ComposedPress"),
    "composed, composed": (
        ComposedPress([ComposedPress([KnormPress(0.2), moe("global")]), KnormPress(0.2)]),
        "cannot be used in ComposedPress",
    ),
}


@pytest.mark.parametrize("cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize(("press", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_before_the_model_runs(llama, ids, press, message, cache):
    held, forwards = cache(), []
    hook = llama.model.register_forward_pre_hook(lambda *args: forwards.append(1))
    with pytest.raises(ValueError, match=message), press(llama):
        llama.generate(ids, past_key_values=held, max_new_tokens=8)
    hook.remove()
    assert not forwards and held.get_seq_length() == 0
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)


@pytest.mark.parametrize("wrapper", [AdaKVPress, KeyRerotationPress, DecodingPress, CompressionRatioDecodingPress])
def test_a_press_of_bytes_is_no_scorer(wrapper):
    with pytest.raises(AssertionError):  # kvpress's own check, which all but KeyRerotationPress have
        wrapper(PiKVPress(0.5))


@pytest.mark.parametrize("press", [moe("pyramid"), moe("adakv"), moe("global")])
def test_wrappers_that_ask_for_scores_get_none(llama, ids, press):
    with pytest.raises(ValueError, match=r"cannot be used inside another press"), AdaKVPress(press)(llama):
        llama(ids, past_key_values=PiKVCache())


@torch.no_grad()
@pytest.mark.parametrize("cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize(
    ("press", "lengths"),
    [
        (ComposedPress([KnormPress(0.2), moe("adakv")]), None),
        (ComposedPress([moe("pyramid"), KnormPress(0.5)]), [146, 4]),
        (PrefillDecodingPress(moe("pyramid"), None), [292, 8]),
        (PrefillDecodingPress(moe("equal"), DECODING), [150, 150]),
        (DecodingPress(moe("equal"), 4, 48), [300, 300]),
        (DecodingPress(MoERouterPress(), 4, 48), [300, 300]),
    ],
)
def test_others_are_served(llama, ids, press, lengths, cache):
    held = cache()
    with press(llama):
        llama(ids, past_key_values=held)
    if lengths is not None:
        assert [layer.get_seq_length() for layer in held.layers] == lengths
    elif cache is PiKVCache:
        assert all(sum(layer.counts()[0]) == 240 for layer in held.layers)


@torch.no_grad()
def test_decoding_reaches_its_target_whatever_came_before(llama, ids):
    """A press that was used on its own in a PiKVCache then evicts like a new one."""
    used = MoERouterPress(0.5, gates=None)
    with used(llama):
        llama(ids, past_key_values=PiKVCache())
    for cache in (DynamicCache(), PiKVCache()):
        with DecodingPress(used, compression_interval=4, target_size=64)(llama):
            llama.generate(ids, past_key_values=cache, max_new_tokens=9, min_new_tokens=9, do_sample=False)
        assert [layer.get_seq_length() for layer in cache.layers] == [64, 64]


@torch.no_grad()
def test_inside_wrappers_budgets_are_equal_by_default(llama, ids):
    """Since wrappers may choose among the entries that are left, or choose again."""
    press, cache = PerLayerCompressionPress(MoERouterPress(0.5, gates=None), [0.5, 0.5]), PiKVCache()
    with press(llama):
        llama(ids, past_key_values=cache)
    assert all(layer.counts() == [[150, 150]] for layer in cache.layers)


@pytest.mark.parametrize("press", [MoERouterPress(0.5, gates=None), FastVPress(0.5, layer=0)])
def test_static_caches_are_named(llama, ids, press):
    with press(llama), pytest.raises(ValueError, match="StaticCache has a fixed number of entries"):
        llama.generate(ids, max_new_tokens=2, cache_implementation="static")


def test_a_static_cache_inside_a_wrapper(llama, ids):
    with (
        AdaKVPress(MoERouterPress(0.5, gates=None))(llama),
        pytest.raises(ValueError, match=r"past_key_values=DynamicCache\(\) or PiKVCache\(\)"),
    ):
        llama.generate(ids, max_new_tokens=2, cache_implementation="static")


def test_nobody_wraps_a_press_that_is_told_by_hand(llama):
    press = MoERouterPress(0.5, gates=None, budgets="adakv")
    press.post_init_from_model(llama)
    assert wrappers_of(press) == []
