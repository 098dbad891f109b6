"""Entries to put on tiers."""

from __future__ import annotations

import torch

from pikvpress.cache.codecs import CODECS, EXACT
from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail


def dense(count: int, seed: int = 0) -> DenseTail:
    generator = torch.Generator().manual_seed(seed)
    return DenseTail(*(torch.randn(1, 2, count, 16, generator=generator) for _ in range(2)))


def entries(recent: int = 10) -> Entries:
    """Return entries of which some are packed and some are dense; a channel of the keys is cleared."""
    context = dense(64)
    context.keys[..., 3] = 0
    context.keys[..., 5] = 0
    kept = torch.rand(1, 2, 64, generator=torch.Generator().manual_seed(1)) < 0.5
    codecs = [CODECS["int8"], EXACT]
    return Entries(dense(recent, 1), Compressed((Stretch.store(context, kept, (codecs, codecs), None),)))


def same(one: Entries, other: Entries) -> bool:
    """Return whether entries are equal in every bit."""
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    return one.counts() == other.counts() and all(torch.equal(mine, theirs) for mine, theirs in pairs)
