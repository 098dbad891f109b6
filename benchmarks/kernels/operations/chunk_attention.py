"""Attention that keys receive from the queries of their chunk."""

from __future__ import annotations

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work


def make(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    group: int,
    tokens: int,
    head_dim: int,
    chunk: int,
) -> Inputs:
    """Return queries and keys whose unscaled logits are of the order of ten."""
    queries = torch.randn(batch, tokens, heads * group, head_dim, device=device).transpose(1, 2)  # as projected
    keys = torch.randn(batch, heads, tokens, head_dim, device=device) * (3 * head_dim**-0.5)
    keys[:, :, ::7] *= 3
    return {"queries": queries.to(dtype), "keys": keys.to(dtype), "chunk": chunk}


def work(element_size: int, *, batch: int, heads: int, group: int, tokens: int, head_dim: int, chunk: int) -> Work:
    """Return the floor: both read once, one product within each chunk."""
    numbers = batch * heads * (group + 1) * tokens * head_dim
    return Work(
        bytes=numbers * element_size + 4 * batch * heads * tokens,
        flops=2 * batch * heads * group * tokens * chunk * head_dim,
    )


def kvpress_scores(queries: torch.Tensor, keys: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return the same with kvpress's code, given projected and rotated queries."""
    from kvpress import NonCausalAttnPress

    heads = keys.shape[1]
    repeated = keys.repeat_interleave(queries.shape[1] // heads, dim=1)
    found: torch.Tensor = NonCausalAttnPress.non_causal_chunked_attn(queries.contiguous(), repeated, chunk)
    return found.unflatten(1, (heads, -1)).mean(dim=2)


CHUNK_ATTENTION = Operation(
    name="chunk_attention",
    folder="chunk_attention",
    make=make,
    small=[
        {"batch": 2, "heads": 2, "group": 3, "tokens": 37, "head_dim": 32, "chunk": 16},
        {"batch": 1, "heads": 1, "group": 1, "tokens": 1, "head_dim": 80, "chunk": 256},
        {"batch": 1, "heads": 1, "group": 2, "tokens": 270, "head_dim": 64, "chunk": 256},
        {"batch": 1, "heads": 1, "group": 8, "tokens": 90, "head_dim": 80, "chunk": 30},
        {"batch": 1, "heads": 1, "group": 1, "tokens": 200, "head_dim": 256, "chunk": 150},
        {"batch": 1, "heads": 1, "group": 1, "tokens": 320, "head_dim": 32, "chunk": 290},
        {"batch": 1, "heads": 1, "group": 4, "tokens": 9, "head_dim": 128, "chunk": 1},
        {"batch": 1, "heads": 2, "group": 1, "tokens": 0, "head_dim": 64, "chunk": 256},
    ],
    large=[
        {"batch": 1, "heads": 8, "group": 4, "tokens": tokens, "head_dim": 128, "chunk": 256}
        for tokens in (8192, 32768, 131072)
    ],
    work=work,
    rivals={"kvpress non-causal": kvpress_scores},
)
