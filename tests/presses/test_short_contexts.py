"""Contexts of a few tokens are compressed correctly, or rejected with advice."""

from __future__ import annotations

import math

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
    ProbeAttentionPress,
    SaliencyPress,
    WindowedObservedAttentionPress,
    available_experts,
)
from pikvpress.budgets import TOKEN_BUDGETS
from pikvpress.gates import file_name, save_gates
from pikvpress.routers import ROUTERS
from pikvpress.saliency_features import num_features
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

LENGTHS = (*range(1, 9), 16, 17, 63, 64, 65, 66, 127, 129)
TOKENS = {
    **{f"router {name}": lambda name=name: MoERouterPress(0.5, router_type=name, gates=None) for name in ROUTERS},
    **{f"budgets {kind}": lambda kind=kind: MoERouterPress(0.6, budgets=kind) for kind in TOKEN_BUDGETS},
    **{f"expert {name}": lambda name=name: MoERouterPress(0.5, experts=[name]) for name in available_experts()},
    "saliency": lambda: SaliencyPress(0.5, torch.ones(2, 2, num_features(16))),
    "probe": lambda: ProbeAttentionPress(0.5),
    "observed": lambda: WindowedObservedAttentionPress(0.5),
    "chunk": lambda: ChunkScorePress(0.5),
    "perlayer": lambda: PerLayerPress({0: KnormPress(0.5)}, default=MoERouterPress(0.5)),
    "adakv": lambda: AdaKVPress(MoERouterPress(0.5)),
}
BYTES = {
    f"{kind} {ratio}": (lambda kind=kind, ratio=ratio: PiKVPress(ratio, budgets=kind))
    for kind in ("equal", "fitted")
    for ratio in (0.1, 0.5, 0.875, 0.97)
}


@pytest.fixture(scope="module")
def llama():
    return make_tiny("llama")


@pytest.fixture(scope="module", autouse=True)
def gates(llama, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("gates"), uneven_gates(llama)
    save_gates(folder / file_name(made.model), made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKVPRESS_GATES", str(folder))
        yield


@torch.no_grad()
def compressed(model, length, press, cache):
    """Return a context's cache after questions that were cropped again; None if the press rejects the context."""
    try:
        with press(model):
            model.model(input_ids=torch.arange(1, length + 1)[None], past_key_values=cache)
    except ValueError as error:
        message = str(error)
        assert any(
            way in message for way in ("use a longer context", "lower the ratio", "largest possible", "lower it")
        )
        return None
    lengths = [layer.get_seq_length() for layer in cache.layers]
    for start, stop in ((0, 3), (3, 4), (4, 5)):
        positions = length + torch.arange(start, stop)[None]
        states = model.model(torch.arange(20 + start, 20 + stop)[None], past_key_values=cache, position_ids=positions)
        assert states.last_hidden_state.isfinite().all()
    for layer, before in zip(cache.layers, lengths, strict=True):
        layer.crop(before)
    return cache


def kept(cache):
    """Return the number of entries in each layer, summed over heads."""
    if isinstance(cache, PiKVCache):
        return [sum(layer.counts()[0]) for layer in cache.layers]
    return [2 * layer.keys.shape[2] for layer in cache.layers]


@pytest.mark.parametrize("cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize("make", TOKENS.values(), ids=TOKENS)
def test_the_tokens_asked_for_are_kept(llama, make, cache):
    served = 0
    for length in LENGTHS:
        press = make()
        held = compressed(llama, length, press, cache())
        if held is None:
            continue
        served += 1
        masks = cache is DynamicCache and getattr(press, "budgets", "") in ("fitted", "adakv", "global")
        if masks or (cache is DynamicCache and isinstance(press, AdaKVPress)):
            assert kept(held) == [2 * length] * 2
            continue
        fewest = max(1, math.floor(length * (1 - press.compression_ratio)))
        assert sum(kept(held)) == 4 * fewest, length
    assert served >= 4, "at least the longest contexts should be compressed"


@pytest.mark.parametrize("make", BYTES.values(), ids=BYTES)
def test_no_more_bytes_are_held_than_asked_for(llama, make):
    served = 0
    for length in LENGTHS:
        press = make()
        cache = compressed(llama, length, press, PiKVCache())
        if cache is not None:
            served += 1
            assert 0 < cache.nbytes <= (1 - press.compression_ratio) * 2 * 2 * 2 * length * 16 * 4
    assert served >= 4


def test_fastv_keeps_its_share_in_later_layers(llama):
    for length in LENGTHS:
        cache = compressed(llama, length, FastVPress(0.5, layer=0), DynamicCache())
        assert kept(cache) == [2 * length, 2 * max(1, length // 2)]
