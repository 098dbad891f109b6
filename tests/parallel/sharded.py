"""What is read with a cache on several ranks, beside the same with one cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache as once
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from kvpress import AdaKVPress, BasePress, KnormPress
from transformers import PreTrainedModel

from pikvpress import FolderStore, MoERouterPress, PiKVCache, PiKVPress
from pikvpress.cache import ShardedPiKVCache
from tests.parallel.cases import SIZE, VOCABULARY, make_model

HEADS, LENGTH, NEW = 4, 600, 24  # heads of more than 256 entries are divided
NUMBERS = 2 * HEADS * (SIZE + 1)  # that a rank may send for each layer and token

CASES: Mapping[str, tuple[BasePress | None, dict[str, Any]]] = {
    "everything": (None, {}),
    "rows": (KnormPress(0.3), {}),
    "few": (KnormPress(0.99), {}),
    "ragged": (AdaKVPress(KnormPress(0.5)), {}),
    "pool of a layer": (MoERouterPress(0.4, gates=None, experts=["keydiff", "knorm"], budgets="adakv"), {}),
    "bytes": (PiKVPress(0.85, gates=None, experts=["keydiff", "knorm"]), {}),
    "int4 and int2": (None, {"key_codec": "int4", "value_codec": "int2", "window": 32}),
    "rotated": (KnormPress(0.1), {"key_codec": "rot4", "value_codec": "rot3", "window": 10}),
    "low rank": (None, {"key_codec": "rank8", "value_codec": "int8", "window": 32}),
}


def on_ranks(group: Any) -> dict[str, Any]:
    """Read every case with a cache on the ranks of a group."""
    return {
        name: _with_messages(press, ShardedPiKVCache(group, **settings)) for name, (press, settings) in CASES.items()
    }


def alone() -> dict[str, Any]:
    """Read every case with one cache."""
    return {name: _read(press, PiKVCache(**settings)) for name, (press, settings) in CASES.items()}


def errors(group: Any) -> list[str]:
    """Return the messages with which the ranks of a group refuse what a sharded cache cannot do."""
    return [_message(attempt) for attempt in _bad(group)]


def _with_messages(press: BasePress | None, cache: PiKVCache) -> dict[str, Any]:
    with messages() as sizes:
        found = _read(press, cache)
    return found | {"messages": sizes}


@contextmanager
def messages() -> Iterator[list[int]]:
    """Record how many numbers this rank sends each time."""
    sizes: list[int] = []
    gather = dist.all_gather

    def counted(parts: list[torch.Tensor], numbers: torch.Tensor, group: Any = None) -> None:
        sizes.append(numbers.numel())
        gather(parts, numbers, group=group)

    with patch.object(dist, "all_gather", counted):
        yield sizes


@torch.no_grad()
def _read(press: BasePress | None, cache: PiKVCache) -> dict[str, Any]:
    model = _model()
    ids = torch.randint(1, VOCABULARY, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    with press(model) if press is not None else nullcontext():
        model(input_ids=ids, past_key_values=cache)
    cache.settle()
    counts, nbytes = [layer.counts()[0] for layer in cache.layers], cache.nbytes
    logits = [model(input_ids=ids[:, :5], past_key_values=cache).logits]
    tokens = []
    for _ in range(NEW):
        tokens.append(int(logits[-1][0, -1].argmax()))
        logits.append(model(input_ids=torch.tensor([[tokens[-1]]]), past_key_values=cache).logits)
    return {"logits": torch.cat(logits, dim=1), "tokens": tokens, "counts": counts, "nbytes": nbytes}


@once
def _model() -> PreTrainedModel:
    return make_model(kv_heads=HEADS, seed=3)


def _bad(group: Any) -> Iterator[Callable[[], object]]:
    """Yield what must be refused."""

    def batch() -> None:
        cache = ShardedPiKVCache(group)
        with torch.no_grad():
            _model()(input_ids=torch.arange(1, 41).view(2, 20), past_key_values=cache)
        cache.settle()

    yield batch
    yield lambda: ShardedPiKVCache(group, scheduler="h2o", max_tokens=400)
    yield lambda: ShardedPiKVCache(group).save("cache.safetensors")
    yield lambda: ShardedPiKVCache.load("cache.safetensors", _model())

    def stored() -> None:
        with TemporaryDirectory() as folder, FolderStore(folder).reading(_model()):
            _model()(input_ids=torch.arange(1, 41)[None], past_key_values=ShardedPiKVCache(group))

    yield stored

    def scheduled() -> None:
        model = _model()
        with MoERouterPress(0.5, gates=None, decoding="h2o")(model):
            model(input_ids=torch.arange(1, 41)[None], past_key_values=ShardedPiKVCache(group))

    yield scheduled


def _message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return ""
