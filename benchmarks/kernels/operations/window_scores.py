"""Attention that keys receive from the last queries."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work


def make(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    group: int,
    window: int,
    tokens: int,
    head_dim: int,
) -> Inputs:
    """Return queries that strongly attend to a few keys, so that attention is not uniform."""
    queries = torch.randn(batch, heads * group, window, head_dim, device=device)
    keys = torch.randn(batch, heads, tokens, head_dim, device=device)
    keys[:, :, :: max(1, tokens // 7)] *= 3
    return {"queries": queries.to(dtype), "keys": keys.to(dtype), "scaling": head_dim**-0.5}


def work(element_size: int, *, batch: int, heads: int, group: int, window: int, tokens: int, head_dim: int) -> Work:
    """Return the floor: keys read once, one matrix product."""
    numbers = batch * heads * head_dim * (tokens + group * window)
    return Work(
        bytes=numbers * element_size + 4 * batch * heads * tokens,
        flops=2 * batch * heads * group * window * tokens * head_dim,
    )


def kvpress_scores(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the scores of kvpress's SnapKV with its own code, given projected and rotated queries."""
    from kvpress import SnapKVPress

    (batch, all_heads, window, head_dim), (heads, tokens) = queries.shape, keys.shape[1:3]
    module = SimpleNamespace(
        config=SimpleNamespace(num_attention_heads=all_heads, num_key_value_heads=heads),
        head_dim=head_dim,
        q_proj=lambda _: queries.transpose(1, 2).flatten(2),
    )
    nothing = keys.new_empty(batch, tokens, 0)
    as_they_are = keys.new_ones(1, window, head_dim), keys.new_zeros(1, window, head_dim)
    kwargs = {"position_embeddings": as_they_are}
    return SnapKVPress(window_size=window).score(module, nothing, keys, keys, None, kwargs)


WINDOW_SCORES = Operation(
    name="received_attention",
    folder="window_scores",
    make=make,
    small=[
        {"batch": 2, "heads": 2, "group": 3, "window": 5, "tokens": 37, "head_dim": 32},
        {"batch": 1, "heads": 1, "group": 1, "window": 1, "tokens": 1, "head_dim": 80},
        {"batch": 1, "heads": 1, "group": 8, "window": 16, "tokens": 700, "head_dim": 256},
        {"batch": 1, "heads": 2, "group": 2, "window": 64, "tokens": 64, "head_dim": 64},
    ],
    large=[
        {"batch": 1, "heads": 8, "group": 4, "window": 64, "tokens": tokens, "head_dim": 128}
        for tokens in (8192, 32768, 131072)
    ],
    work=work,
    rivals={"kvpress SnapKV": kvpress_scores},
)
