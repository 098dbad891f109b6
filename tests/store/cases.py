"""Contexts for stores, and how many tokens a model reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from kvpress import AdaKVPress, KeyRerotationPress, KnormPress, SnapKVPress

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.store import ContextKeys, FolderStore

LENGTH, REST = 200, 9

# name -> (press or None, cache)
KINDS = {
    "full": (lambda: None, lambda: PiKVCache()),
    "codecs": (lambda: None, lambda: PiKVCache("int4", "rot3", window=16)),
    "shortened": (lambda: SnapKVPress(0.5), lambda: PiKVCache()),
    "ragged": (lambda: AdaKVPress(KnormPress(0.5)), lambda: PiKVCache()),
    "routed": (
        lambda: MoERouterPress(0.5, experts=["knorm", "keydiff"], gates=None),
        lambda: PiKVCache("int8", "int8"),
    ),
    "bytes": (lambda: PiKVPress(0.8, gates=None), lambda: PiKVCache()),
    "scheduled": (lambda: None, lambda: PiKVCache(scheduler="h2o", max_tokens=150, window=16)),
    "scheduled after a press": (lambda: PiKVPress(0.93, gates=None, decoding="h2o"), lambda: PiKVCache(window=16)),
    "moved": (lambda: KeyRerotationPress(KnormPress(0.5)), lambda: PiKVCache()),
}


def text(rows: int = 1, length: int = LENGTH + REST, seed: int = 3) -> torch.Tensor:
    """Return token ids, shape (rows, length)."""
    return torch.randint(1, 511, (rows, length), generator=torch.Generator().manual_seed(seed))


@contextmanager
def counted(model) -> Iterator[list[int]]:
    """Yield a list to which the number of tokens of every reading by the model's first layer is appended."""
    read: list[int] = []
    layer = model.model.layers[0].self_attn
    handle = layer.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    try:
        yield read
    finally:
        handle.remove()


@torch.no_grad()
def two_stretches(model, press, cache, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of the last token after a context and the rest of the text were read one after the other."""
    with press(model) if press is not None else nullcontext():
        model.model(ids[:, :LENGTH], past_key_values=cache)
        positions = torch.arange(LENGTH, ids.shape[1])[None]
        return model(ids[:, LENGTH:], past_key_values=cache, position_ids=positions, logits_to_keep=1).logits


def put(store: FolderStore, number: int, size: int = 1000) -> ContextKeys:
    """Store a file of so many bytes under the key of a text, and return the text's keys."""
    keys = ContextKeys("0" * 64, text(seed=number))
    store.put(keys.at(keys.length), lambda path: path.write_bytes(bytes(size)), size)
    return keys
