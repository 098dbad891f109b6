"""Caches of every kind, filled by a tiny model, and how they go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import mkdtemp

import torch
from kvpress import AdaKVPress, KnormPress, SnapKVPress, ThinKPress

from pikvpress import PiKVCache, PiKVPress
from pikvpress.cache import Bases
from pikvpress.gates import save_gates
from pikvpress.models import attention_layers, fingerprint
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import SCHEDULERS, DuoScheduler, SaliencyScheduler, Scheduler
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

LENGTH = 200


def random_bases(model) -> Bases:
    """Return bases of random directions: they lose much, but always the same."""
    generator = torch.Generator().manual_seed(1)
    sides = []
    for _ in range(2):
        directions = torch.linalg.qr(torch.randn(2, 2, 16, 12, generator=generator)).Q.mT.contiguous()
        mean, spread = torch.randn(2, 2, 16, generator=generator), torch.ones(2, 2, 12)
        sides.append({"mean": mean.half(), "directions": directions.half(), "spread": spread.half()})
    return Bases(fingerprint(attention_layers(model)[0]), *sides)


def saved_gates(model) -> Path:
    """Return a file of gates that give the heads of a layer different codecs and numbers of tokens."""
    path = Path(mkdtemp()) / "gates.safetensors"
    save_gates(path, uneven_gates(model))
    return path


def coded(keys: str, values: str, window: int = 16) -> tuple[Callable, None]:
    return lambda model: PiKVCache(keys, values, window=window), None


def given(name: str) -> str | Scheduler:
    """Return a scheduler that needs no gates."""
    weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(1))
    made = {
        "saliency": SaliencyScheduler(weights=weights, shares=torch.tensor([[0.5, 1.5], [1.25, 0.75]])),
        "duo": DuoScheduler(importance=torch.tensor([[1, 0], [0, 1]])),
    }
    return made.get(name, name)


def scheduled(name: str, *codecs: str, **limits: float) -> tuple[Callable, None]:
    limits = limits or {"max_tokens": 150}
    return lambda model: PiKVCache(*codecs, window=16, scheduler=given(name), **limits), None


# name -> (cache for a model, press for a model or None)
CACHES: dict[str, tuple[Callable, Callable | None]] = {
    "dense": (lambda model: PiKVCache(), None),
    "shortened": (lambda model: PiKVCache(), lambda model: SnapKVPress(0.5)),
    "ragged": (lambda model: PiKVCache(), lambda model: AdaKVPress(KnormPress(0.5))),
    "int8/int4": coded("int8", "int4"),
    "int3/int2": coded("int3", "int2"),
    "rot4/rot3": coded("rot4", "rot3"),
    "rot2/rot1": coded("rot2", "rot1", window=0),
    "low rank": coded("rank4", "rank4+int2"),
    "calibrated": (lambda model: PiKVCache(bases := random_bases(model), bases, window=20), None),
    "calibrated keys": (lambda model: PiKVCache(random_bases(model), "int8", window=20), None),
    "ragged and packed": (
        lambda model: PiKVCache("int4", "int4", window=20),
        lambda model: AdaKVPress(KnormPress(0.5)),
    ),
    "cleared channels": (lambda model: PiKVCache("int8", "int8"), lambda model: ThinKPress(0.5)),
    "bytes": (lambda model: PiKVCache(), lambda model: PiKVPress(0.8, gates=None)),
    "bytes per head": (lambda model: PiKVCache(), lambda model: PiKVPress(0.8, gates=saved_gates(model))),
    **{name: scheduled(name) for name in SCHEDULERS},
    "h2o, int8/int4": scheduled("h2o", "int8", "int4"),
    "lru, rot4/rot3": scheduled("lru_plus", "rot4", "rot3", ratio=0.4),
    "duo by ratio": scheduled("duo", ratio=0.4),
    "saliency by bytes": scheduled("saliency", max_bytes=100_000),
    "bytes, then h2o": (lambda model: PiKVCache(window=16), lambda model: PiKVPress(0.93, gates=None, decoding="h2o")),
}


def ids(batch: int = 1) -> torch.Tensor:
    """Return contexts, shape (batch, LENGTH)."""
    generator = torch.Generator().manual_seed(7)
    return torch.stack([torch.randperm(511, generator=generator)[:LENGTH] + 1 for _ in range(batch)])


@torch.no_grad()
def filled(model, kind: str, later: int = 0, mask: torch.Tensor | None = None) -> PiKVCache:
    """Return a cache that has read a context and, at once, `later` more tokens, which fill a group if they are 70."""
    make, press = CACHES[kind]
    cache, batch = make(model), 1 if mask is None else mask.shape[0]
    with press(model)(model) if press is not None else nullcontext():
        model.model(input_ids=ids(batch), past_key_values=cache, attention_mask=mask)
    if later:
        read(model, cache, ids(batch)[:, :later].flip(1), mask)
    return cache


@torch.no_grad()
def read(model, cache, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the logits after tokens (batch, n); a mask of the context is continued."""
    length, (batch, new) = cache.get_seq_length(), tokens.shape
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(batch, length + new - mask.shape[1])], dim=1)
    positions = torch.arange(LENGTH + length, LENGTH + length + new).expand(batch, -1)
    return model(tokens, past_key_values=cache, position_ids=positions, attention_mask=mask).logits


def answer(model, cache, tokens: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the logits of `tokens` tokens, each chosen by the logits before it."""
    token, logits = torch.full((1 if mask is None else mask.shape[0], 1), 5), []
    for _ in range(tokens):
        logits.append(read(model, cache, token, mask))
        token = logits[-1][:, -1:].argmax(dim=-1)
    return torch.cat(logits, dim=1)


def answers_of_files(files: list[str], tokens: int, threads: int) -> list[torch.Tensor]:
    """Return the answers of another process, with as many threads, from saved caches."""
    torch.set_num_threads(threads)
    model = make_tiny("llama")
    return [answer(model, PiKVCache.load(file, model), tokens) for file in files]
