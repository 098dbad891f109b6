"""A model of Llama-3.1-8B's shape with random weights: what presses add to a prefill, decoding until memory ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kvpress import AdaKVPress, SnapKVPress
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from benchmarks.end_to_end import (
    EXPERTS,
    LARGEST_BATCH,
    Contender,
    contenders,
    make_model,
    prefill,
    speeds_by_batch,
)
from benchmarks.failures import reason
from benchmarks.gpu_check.names import EIGHTH, FULL, HALF, PREALLOCATED
from benchmarks.gpu_check.setting import Setting
from benchmarks.stand_in_gates import write_gates
from pikvpress import PiKVCache, PiKVPress
from pikvpress.memory import cache_bytes

PREFILL, DECODING = "prefill", "decoding"
PREFILL_COLUMNS = ("tokens", "contender", "round", "prefill_s", "peak_gib", "failed")
DECODING_COLUMNS = ("tokens", "contender", "batch", "tokens_per_s", "cache_mib", "prefill_s", "failed")
ROUNDS = 3  # of prefills, after one to warm up
NEW = 16  # tokens that are timed
REHEARSED = 256  # tokens of a context
ROOM = 256  # entries of a preallocated cache beside the context


@contextmanager
def _model_and_gates(setting: Setting) -> Iterator[tuple[PreTrainedModel, Path]]:
    model = make_model("tiny" if setting.rehearse else "llama-3.1-8b")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        gates = Path(folder) / "gates.safetensors"
        write_gates(model, EXPERTS, gates)
        yield model, gates


def press(setting: Setting, tokens: int = 32768) -> None:
    """Time prefills with and without presses, in turn, and write a row for each; round 0 warms up."""
    tokens = REHEARSED if setting.rehearse else tokens
    with _model_and_gates(setting) as (model, gates):
        ids = torch.randint(model.config.vocab_size, (1, tokens), device=model.device)
        for round_ in range(1 + (1 if setting.rehearse else ROUNDS)):
            for name, contender in contenders(gates).items():
                row = {"tokens": tokens, "contender": name, "round": round_}
                try:
                    cache, seconds, peak = prefill(model, ids, contender)
                    del cache
                    row |= {"prefill_s": seconds, "peak_gib": peak / 2**30}
                except Exception as error:
                    row["failed"] = reason(error)
                setting.add(PREFILL, PREFILL_COLUMNS, row)


def decoding(setting: Setting, tokens: int) -> None:
    """Decode after a context from each cache, in growing batches, and write a row for each."""
    tokens = REHEARSED if setting.rehearse else tokens
    with _model_and_gates(setting) as (model, gates):
        ids = torch.randint(model.config.vocab_size, (1, tokens), device=model.device)
        for name, contender in _decoded(gates).items():
            row = {"tokens": tokens, "contender": name}
            try:
                for found in _decode_from(model, ids, name, contender, 2 if setting.rehearse else LARGEST_BATCH):
                    setting.add(DECODING, DECODING_COLUMNS, row | found)
            except Exception as error:
                setting.add(DECODING, DECODING_COLUMNS, row | {"failed": reason(error)})


def _decode_from(
    model: PreTrainedModel, ids: torch.Tensor, name: str, contender: Contender, most: int
) -> Iterator[dict[str, float]]:
    """Yield what a cache takes, and the speed of decoding from it in every batch that fits."""
    cache, seconds, _ = prefill(model, ids, contender)
    if name == PREALLOCATED:
        cache = _preallocated(model, cache)
    elif isinstance(cache, PiKVCache):
        cache.settle()
    held = cache.nbytes if isinstance(cache, PiKVCache) else cache_bytes(cache)
    for batch, speed in speeds_by_batch(model, cache, ids[:, -1:], NEW, most):
        yield {"prefill_s": seconds, "cache_mib": held / 2**20, "batch": batch, "tokens_per_s": speed}


def _preallocated(model: PreTrainedModel, cache: Cache) -> StaticCache:
    """Return a cache with the same entries, and room for more; the given one is emptied on the way."""
    length = cache.get_seq_length()
    larger = StaticCache(config=model.config, max_cache_len=length + ROOM)
    places = torch.arange(length, device=model.device)
    layers: Any = cache.layers
    for index, layer in enumerate(layers):
        larger.update(layer.keys, layer.values, index, {"cache_position": places})
        layer.keys = layer.values = layer.keys[:, :, :0].clone()
    return larger


decoding_32k = partial(decoding, tokens=32768)
decoding_128k = partial(decoding, tokens=131072)


def _decoded(gates: Path) -> dict[str, Contender]:
    """Return the caches to decode from, those first whose speed matters most.

    A DynamicCache copies itself for every token, so there is also one that is allocated in advance.
    """
    return {
        FULL: (DynamicCache, lambda: None),
        EIGHTH: (PiKVCache, lambda: PiKVPress(0.875, gates=gates)),
        "kvpress AdaKV over SnapKV, 1/2 of the tokens (masked)": (DynamicCache, lambda: AdaKVPress(SnapKVPress(0.5))),
        HALF: (PiKVCache, lambda: PiKVPress(0.5, gates=gates)),
        PREALLOCATED: (DynamicCache, lambda: None),
    }
