"""Results do not depend on what a model was used for before: other presses, caches, attention modes, errors."""

from __future__ import annotations

import random
from contextlib import nullcontext
from copy import deepcopy
from functools import cache as remembered
from typing import NamedTuple

import pytest
import torch
from kvpress import (
    AdaKVPress,
    CompressionRatioDecodingPress,
    CriticalAdaKVPress,
    DecodingPress,
    DMSPress,
    KnormPress,
    KVComposePress,
    PerLayerCompressionPress,
    PrefillDecodingPress,
    SnapKVPress,
)
from transformers import DynamicCache

from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVCache, PiKVPress, SaliencyPress
from pikvpress.gates import file_name, save_gates
from pikvpress.saliency_features import num_features
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

WEIGHTS = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(0))
PRESSES = {
    "none": lambda: None,
    "knorm": lambda: KnormPress(0.5),
    "snapkv": lambda: SnapKVPress(0.5, window_size=8),
    "adakv": lambda: AdaKVPress(KnormPress(0.5)),
    "criticaladakv": lambda: CriticalAdaKVPress(KnormPress(0.6)),
    "kvcompose": lambda: KVComposePress(compression_ratio=0.5),
    "kvcompose_unstructured": lambda: KVComposePress(structured=False, compression_ratio=0.5),
    "dms": lambda: DMSPress(KnormPress(), threshold=-3.0, sliding_window_size=8, decoding=True),
    "moe": lambda: MoERouterPress(0.5),
    "moe_prior": lambda: MoERouterPress(0.5, gates=None),
    "moe_fitted": lambda: MoERouterPress(0.5, budgets="fitted"),
    "moe_adakv": lambda: MoERouterPress(0.5, budgets="adakv"),
    "moe_global": lambda: MoERouterPress(0.6, budgets="global"),
    "moe_pyramid": lambda: MoERouterPress(0.5, budgets="pyramid"),
    "adakv_moe": lambda: AdaKVPress(MoERouterPress(0.5)),
    "perlayer_moe": lambda: PerLayerCompressionPress(MoERouterPress(0.5), [0.3, 0.6]),
    "pikv": lambda: PiKVPress(0.8),
    "pikv_equal": lambda: PiKVPress(0.9, budgets="equal"),
    "saliency": lambda: SaliencyPress(0.5, WEIGHTS),
    "fastv": lambda: FastVPress(0.5, layer=0),
    "perlayer": lambda: PerLayerPress({1: MoERouterPress(0.5)}, default=KnormPress(0.3)),
    "decoding": lambda: DecodingPress(MoERouterPress(), compression_interval=2, target_size=40),
    "decoding_ratio": lambda: CompressionRatioDecodingPress(KnormPress(), compression_interval=2),
    "prefill_decoding": lambda: PrefillDecodingPress(MoERouterPress(0.3), DecodingPress(KnormPress(), 2, 40)),
}
WHILE_DECODING = ("dms", "decoding", "decoding_ratio", "prefill_decoding")
CACHES = {
    "dynamic": DynamicCache,
    "pikv": PiKVCache,
    "pikv_int8": lambda: PiKVCache("int8", "int4", window=8),
}


class Use(NamedTuple):
    """One use of a model."""

    press: str
    cache: str
    mode: str
    length: int
    fails: bool


class Broken(RuntimeError):
    """The error that interrupts a forward pass."""


@pytest.fixture(scope="module")
def llama():
    return make_tiny("llama")


@pytest.fixture(scope="module", autouse=True)
def gates(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates")
    made = uneven_gates(llama)
    save_gates(folder / file_name(made.model), made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKVPRESS_GATES", str(folder))
        yield


def fail(*args):
    raise Broken


def ask(model, ids, cache, start, stop):
    positions = torch.arange(ids.shape[1] + start, ids.shape[1] + stop)[None]
    return model(input_ids=ids[:, start:stop], past_key_values=cache, position_ids=positions).logits


@torch.no_grad()
def outcome(model, press, use):
    """Return the logits for a context, a question and two tokens, or the error that was raised."""
    model.set_attn_implementation(use.mode)
    cache = CACHES[use.cache]()
    ids = torch.arange(1, use.length + 1)[None] * 37 % 511
    logits = []
    hook = model.model.layers[1].mlp.register_forward_pre_hook(fail) if use.fails else None
    try:
        with press(model) if press is not None else nullcontext():
            logits.append(model(input_ids=ids, past_key_values=cache).logits[:, -1:])
            if use.press in WHILE_DECODING:
                logits += [ask(model, ids, cache, *at) for at in ((0, 3), (3, 4), (4, 5), (5, 6))]
        logits += [ask(model, ids, cache, *at) for at in ((6, 9), (9, 10), (10, 11))]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if hook is not None:
            hook.remove()
    return torch.cat(logits, dim=1)


@remembered
def fresh(model, use):
    return outcome(deepcopy(model), PRESSES[use.press](), use)


def same(one, other):
    return one == other if isinstance(one, str) or isinstance(other, str) else torch.equal(one, other)


def some_use(rng, names):
    return Use(
        rng.choice(names),
        rng.choice(list(CACHES)),
        rng.choice(["sdpa", "eager"]),
        rng.choice([60, 90]),
        rng.random() < 0.2,
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_use_gives_what_it_gives_on_a_fresh_model(llama, seed):
    """Ten sequences of three uses; a press that occurs twice in one is the same object."""
    rng = random.Random(seed)
    for _ in range(10):
        names = rng.sample(list(PRESSES), 2)
        model, presses = deepcopy(llama), {name: PRESSES[name]() for name in names}
        done = []
        for _ in range(3):
            use = some_use(rng, names)
            found = outcome(model, presses[use.press], use)
            assert same(found, fresh(llama, use)), f"{use} after {done}: {found} instead of {fresh(llama, use)}"
            done.append(use)
        assert not any(layer.self_attn._forward_hooks for layer in model.model.layers)


@pytest.mark.parametrize("name", PRESSES)
def test_a_press_does_not_remember_caches(llama, name):
    """Every order of two caches, with contexts of different lengths, in the mode of kvpress's head-wise presses."""
    for first in CACHES:
        for second in CACHES:
            model, press = deepcopy(llama), PRESSES[name]()
            outcome(model, press, Use(name, first, "sdpa", 90, False))
            use = Use(name, second, "sdpa", 60, False)
            assert same(outcome(model, press, use), fresh(llama, use)), f"{second} after {first}"


def test_a_press_does_not_remember_models(llama):
    """The gates of one model and their experts are not used for another."""
    other, uses = make_tiny("llama", seed=1), [Use(name, "pikv", "sdpa", 60, False) for name in ("moe", "pikv")]
    for use in uses:
        press = PRESSES[use.press]()
        for model in (llama, other, llama):
            assert same(outcome(deepcopy(model), press, use), fresh(model, use))
            assert press.plan.fitted is (model is llama)
