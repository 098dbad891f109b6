"""A stored context is found by everything that determines it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import pytest
import torch
from kvpress import AdaKVPress, BasePress, KnormPress, SnapKVPress

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.gates import file_name, save_gates
from pikvpress.models import attention_layers, fingerprint
from pikvpress.schedulers import DuoScheduler
from pikvpress.store.setting import Setting, identity
from tests.cache.saving.cases import random_bases
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


def of(model, press=None, cache=None):
    return Setting(model, press).of(PiKVCache() if cache is None else cache)


def test_equal_settings_are_equal_and_all_others_differ(llama):
    makes = [
        lambda: (llama, None, PiKVCache()),
        lambda: (make_tiny("llama", seed=1), None, PiKVCache()),
        lambda: (llama, None, PiKVCache(window=64)),
        lambda: (llama, None, PiKVCache("int4")),
        lambda: (llama, None, PiKVCache("exact", "int4")),
        lambda: (llama, None, PiKVCache(random_bases(llama), "int4")),
        lambda: (llama, None, PiKVCache(scheduler="h2o", max_tokens=600)),
        lambda: (llama, None, PiKVCache(scheduler="h2o", max_tokens=601)),
        lambda: (llama, None, PiKVCache(scheduler="lru", max_tokens=600)),
        lambda: (llama, None, PiKVCache(scheduler=DuoScheduler(importance=torch.eye(2)), max_tokens=600)),
        lambda: (llama, None, PiKVCache(scheduler=DuoScheduler(importance=1 - torch.eye(2)), max_tokens=600)),
        lambda: (llama, SnapKVPress(0.5), PiKVCache()),
        lambda: (llama, SnapKVPress(0.6), PiKVCache()),
        lambda: (llama, SnapKVPress(0.5, window_size=32), PiKVCache()),
        lambda: (llama, KnormPress(0.5), PiKVCache()),
        lambda: (llama, AdaKVPress(KnormPress(0.5)), PiKVCache()),
        lambda: (llama, MoERouterPress(0.5), PiKVCache()),
        lambda: (llama, MoERouterPress(0.5, gates=None), PiKVCache()),
        lambda: (llama, PiKVPress(0.5), PiKVCache()),
    ]
    first, second = ([of(*make()) for make in makes] for _ in range(2))
    assert first == second and len(set(first)) == len(makes)


def test_a_cache_that_was_emptied_is_like_a_new_one(llama):
    caches = [PiKVCache("int4", scheduler=None), PiKVCache(scheduler="h2o", max_tokens=600)]
    for cache in caches:
        before = of(llama, None, cache)
        with torch.no_grad():
            llama.model(torch.ones(1, 9, dtype=torch.long), past_key_values=cache)
        cache.reset()
        assert of(llama, None, cache) == before


def test_other_gates_are_another_setting(llama, tmp_path, monkeypatch):
    path = tmp_path / "gates.safetensors"
    save_gates(path, uneven_gates(llama))
    given = of(llama, PiKVPress(0.5, gates=path))
    save_gates(path, uneven_gates(llama, ("knorm", "keydiff")))
    assert of(llama, PiKVPress(0.5, gates=path)) != given
    found = of(llama, PiKVPress(0.5))
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    path.rename(tmp_path / file_name(fingerprint(attention_layers(llama)[0])))
    assert of(llama, PiKVPress(0.5)) != found


def test_it_is_the_same_in_every_process():
    """Nothing depends on addresses, or on the order of sets, which differ from process to process."""
    zero = hashlib.sha256(bytes(8)).hexdigest()
    told = identity([KnormPress(0.5), {"b": {"x", "y", "z"}, "a": None}, torch.zeros(2), DuoScheduler()])
    assert told == [
        {"class": "kvpress.presses.knorm_press.KnormPress", "compression_ratio": 0.5},
        ["mapping", ["b", ['"x"', '"y"', '"z"']], ["a", None]],
        ["torch.float32", [2], zero],
        {
            "class": "pikvpress.schedulers.duo.DuoScheduler",
            "sinks": 4,
            "recent": 64,
            "importance": None,
            "_shard": None,
        },
    ]


@dataclass
class OwnPress(BasePress):
    function: object = len
    inner: int = field(default=0, init=False)


def test_what_cannot_be_told_apart_is_refused(llama):
    with pytest.raises(ValueError, match=r"function of OwnPress: .* not known what determines a builtin_function"):
        of(llama, OwnPress())
    assert of(llama, OwnPress(function=1)) == of(llama, OwnPress(function=1)) != of(llama, OwnPress(function=2))
    with pytest.raises(TypeError, match="press must be a press of kvpress or pikvpress, got str"):
        of(llama, "snapkv")
    with pytest.raises(ValueError, match="determines a generator"):
        identity(letter for letter in "ab")


def test_values_of_all_kinds():
    layers = [torch.nn.Linear(2, 2, bias=False) for _ in range(2)]
    values = [None, True, 1.5, "text", torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.half), *layers]
    values += [[1, 2], [2, 1], {1, 2}, {"a": 1}, {"a": 2}, torch.float16]
    told = [json.dumps(identity(value)) for value in values]
    assert told == [json.dumps(identity(value)) for value in values] and len(set(told)) == len(told)
