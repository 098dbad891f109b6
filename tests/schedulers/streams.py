"""Random streams of queries, keys and values, read by a cache through the attention functions of transformers."""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pikvpress import PiKVCache
from tests.schedulers.dense import BATCH, GROUP, HEADS, PAGE, SIZE, Dense

WINDOW = 16


class Attention(torch.nn.Module):
    """What attention functions and schedulers ask of an attention module, of a model with one layer."""

    def __init__(self):
        super().__init__()
        self.layer_idx, self.is_causal, self.head_dim, self.num_key_value_groups = 0, True, SIZE, GROUP
        self.config = SimpleNamespace(
            num_hidden_layers=1, num_key_value_heads=HEADS, layer_types=None, _attn_implementation="sdpa"
        )


def rotation(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.arange(first, first + count, dtype=torch.float64)[:, None]
    angles = (places * torch.tensor([1.0, 0.3, 0.1, 0.03], dtype=torch.float64)).repeat(1, 2)[None]
    return angles.cos(), angles.sin()


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def chunks(seed: int) -> list[int]:
    """Return the number of tokens of each reading: a prompt, pieces, and single tokens."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 220), *(draw.choice((1, 1, 7, 40, 90)) for _ in range(9))]
    return sizes[seed % 2 :]  # prompts of every length


def stream(seed: int):
    """Yield queries, keys before rotation and values of each reading, float64."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(HEADS, 1, 1, generator=generator, dtype=torch.float64) * 3
    for tokens in chunks(seed):
        shape = (BATCH, HEADS, tokens, SIZE)
        keys, values = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        query = torch.randn(BATCH, HEADS * GROUP, tokens, SIZE, generator=generator, dtype=torch.float64)
        yield query * scale.repeat_interleave(GROUP, 0), keys, values


def read(cache: PiKVCache, module: Attention, query, keys, values):
    """Append keys and values to a cache and return the attention over all of it; keys are rotated."""
    cos, sin = rotation(cache.get_seq_length(), keys.shape[2])
    turned = rotated(keys, cos, sin)
    given = cache.update(turned, values, 0, {"cos": cos, "sin": sin})
    with torch.no_grad():
        output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, *given, None, 0.0, scaling=SIZE**-0.5)
    return output, turned


def held(cache: PiKVCache, row: int) -> list[list[int]]:
    """Return the positions that each head of a row holds."""
    layer = cache.layers[0]
    first = layer.entries.compressed.context_length
    recent = list(range(first, layer.entries.length))
    candidates = layer.keeper.records.ledger.candidates(first, 0, layer.entries.length, 0)
    return [[p for p in head if p >= 0] + recent for head in candidates.positions[row].tolist()]


def compare(seed: int, scheduler, rule, quota: int, **limits) -> tuple[PiKVCache, Dense]:
    """Read a stream with a scheduled cache and a dense one, and assert that they hold and return the same."""
    limits = limits or {"max_tokens": WINDOW + PAGE + quota}
    cache, module = PiKVCache(window=WINDOW, scheduler=scheduler, **limits), Attention()
    dense = Dense(rule, lambda left: quota, WINDOW)
    for query, keys, values in stream(seed):
        output, turned = read(cache, module, query, keys, values)
        torch.testing.assert_close(output, dense.read(query, turned, values), atol=1e-9, rtol=1e-7)
        for row in range(BATCH):
            assert held(cache, row) == dense.held(row)
    return cache, dense
