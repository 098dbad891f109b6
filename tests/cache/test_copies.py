"""Copies of caches, plans and presses, in memory or through files, behave like the original."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle

import pytest
import torch
from kvpress import AdaKVPress, KnormPress
from transformers import DynamicCache

from pikvpress import (
    ChunkScorePress,
    FastVPress,
    MoERouterPress,
    PerLayerPress,
    PiKVCache,
    PiKVPress,
    Plan,
    ProbeAttentionPress,
    SaliencyPress,
    WindowedObservedAttentionPress,
)
from pikvpress.routers import ROUTERS
from pikvpress.saliency_features import num_features

LENGTH = 200


def saved_and_loaded(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "save": saved_and_loaded,
}
CACHES = {
    "empty": (PiKVCache, None, 0),
    "exact": (PiKVCache, None, 5),
    "shortened": (PiKVCache, lambda: KnormPress(0.5), 5),
    "masked, not looked at since": (PiKVCache, lambda: AdaKVPress(KnormPress(0.5)), 0),
    "ragged": (PiKVCache, lambda: AdaKVPress(KnormPress(0.5)), 5),
    "packed": (lambda: PiKVCache("int4", "rank4+int2", window=16), None, 70),
    "scheduled": (lambda: PiKVCache(window=16, scheduler="adakv", max_tokens=150), None, 70),
    "scheduled in few bits": (lambda: PiKVCache("int8", "rot4", window=16, scheduler="h2o", ratio=0.5), None, 70),
    "packed by a press": (PiKVCache, lambda: PiKVPress(0.8, gates=None), 70),
}


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


@pytest.fixture
def ids(ids):
    return ids[:, :LENGTH]


@torch.no_grad()
def filled(model, ids, make, press, tokens):
    cache = make()
    if press is not None:
        with press()(model):
            model.model(input_ids=ids, past_key_values=cache)
    elif make is not PiKVCache or tokens:
        model.model(input_ids=ids, past_key_values=cache)
    for index in range(tokens):
        ask(model, cache, index)
    return cache


@torch.no_grad()
def ask(model, cache, index=0):
    positions = torch.tensor([[LENGTH + index]])
    return model(torch.tensor([[index + 1]]), past_key_values=cache, position_ids=positions).logits


@pytest.mark.parametrize("kind", CACHES)
def test_a_copied_cache_goes_its_own_way(llama, ids, copied, kind):
    cache = filled(llama, ids, *CACHES[kind])
    twin = copied(cache)
    assert twin.nbytes == cache.nbytes and twin.get_seq_length() == cache.get_seq_length() and str(twin) == str(cache)
    first = ask(llama, cache, 80)
    assert twin.get_seq_length() == cache.get_seq_length() - 1
    assert torch.equal(ask(llama, twin, 80), first)
    for _ in range(70):  # until a group is packed, if there are groups
        assert torch.equal(ask(llama, twin, 81), ask(llama, cache, 81))
    assert twin.nbytes == cache.nbytes


def test_a_copy_of_a_failed_forward_is_undone_too(llama, ids, copied):
    cache = filled(llama, ids, *CACHES["ragged"])
    length = cache.get_seq_length()
    expected = ask(llama, copy.deepcopy(cache))
    hook = llama.model.layers[0].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(llama, cache)
    hook.remove()
    twin = copied(cache)
    with pytest.raises(ValueError, match=f"restored to the {length} entries"):
        ask(llama, twin)
    assert torch.equal(ask(llama, twin), expected)


def test_a_copied_cache_keeps_its_codecs_for_layers_to_come(llama, ids, copied):
    twin, cache = copied(PiKVCache("int4", "int8", window=10)), PiKVCache("int4", "int8", window=10)
    for one in (twin, cache):
        with torch.no_grad():
            llama.model(input_ids=ids, past_key_values=one)
    assert twin.nbytes == cache.nbytes and twin.layers[0].codec_names() == ("int4", "int8")


def test_a_shallow_copy_shares_its_layers_as_transformers_caches_do(llama, ids):
    for make in (PiKVCache, DynamicCache):
        cache = make()
        with torch.no_grad():
            llama.model(input_ids=ids, past_key_values=cache)
        assert copy.copy(cache).layers is cache.layers


def test_a_cache_goes_to_another_process(llama, ids):
    cache = filled(llama, ids, *CACHES["packed by a press"])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        described, back = pool.apply(described_and_back, (cache,))
    assert described == str(cache)
    assert torch.equal(ask(llama, back, 90), ask(llama, cache, 90))


def described_and_back(cache):
    return str(cache), cache


def test_iterating_gives_what_a_dynamic_cache_gives(llama, ids):
    ours, theirs = PiKVCache(), DynamicCache()
    with torch.no_grad():
        for cache in (ours, theirs):
            llama.model(input_ids=ids, past_key_values=cache)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other) and one[2] is other[2] is None
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    again = DynamicCache(list(ours))
    assert torch.equal(ask(llama, again), ask(llama, theirs))


def test_iterating_over_compressed_layers_gives_what_stands_for_them(llama, ids):
    cache = filled(llama, ids, *CACHES["masked, not looked at since"])
    for keys, values, _ in cache:
        assert keys.shape == values.shape == (1, 2, LENGTH, 16)
        with pytest.raises(ValueError, match="holds packed entries or a different number per head"):
            keys.sum()


PRESSES = {
    **{
        f"moe {router}": lambda router=router: MoERouterPress(0.5, router_type=router, gates=None) for router in ROUTERS
    },
    "moe adakv": lambda: MoERouterPress(0.5, gates=None, budgets="adakv"),
    "moe global": lambda: MoERouterPress(0.5, gates=None, budgets="global"),
    "moe of one's own": lambda: MoERouterPress(0.5, experts=[KnormPress(), "keydiff"]),
    "pikv": lambda: PiKVPress(0.8, gates=None),
    "fastv": lambda: FastVPress(0.5, layer=0),
    "perlayer": lambda: PerLayerPress({0: KnormPress(0.5)}, default=MoERouterPress(0.3, gates=None)),
    "saliency": lambda: SaliencyPress(0.5, torch.ones(2, 2, num_features(16))),
    "probe": lambda: ProbeAttentionPress(0.5),
    "observed": lambda: WindowedObservedAttentionPress(0.5),
    "chunk": lambda: ChunkScorePress(0.5),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("make", PRESSES.values(), ids=PRESSES)
def test_a_copied_press_does_the_same(llama, ids, make, used):
    press = make()
    if used:
        filled(llama, ids, PiKVCache, lambda: press, 1)
    expected = filled(llama, ids, PiKVCache, make, 1)
    for name, copied in COPIES.items():
        twin = copied(press)
        assert repr(twin) == repr(press), name
        if used and hasattr(press, "plan"):
            assert twin.plan.layers == press.plan.layers and twin.get_stats() == press.get_stats()
        cache = filled(llama, ids, PiKVCache, lambda twin=twin: twin, 1)
        assert torch.equal(ask(llama, cache), ask(llama, copy.deepcopy(expected)))


def test_copied_plans_are_equal(llama, ids, copied):
    press = PiKVPress(0.8, gates=None)
    filled(llama, ids, PiKVCache, lambda: press, 0)
    assert copied(press.plan) == press.plan == Plan.from_dict(press.plan.to_dict())
