"""Moments of queries, and the attention that keys would receive from queries with these moments."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work


def make_queries(dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int) -> Inputs:
    """Return queries in projection layout, with a mean in some channels and correlation between others."""
    projected = torch.randn(batch, tokens, heads, head_dim, device=device)
    projected[..., ::5] += 4
    projected[..., 1::7] += projected[..., :1]
    return {"queries": projected.to(dtype).transpose(1, 2)}


def moments_work(element_size: int, *, batch: int, heads: int, tokens: int, head_dim: int) -> Work:
    """Return the floor: queries read once, one matrix product."""
    return Work(
        bytes=batch * heads * head_dim * (tokens * element_size + 4 * (head_dim + 1)),
        flops=2 * batch * heads * tokens * head_dim**2,
    )


def kvpress_moments(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the moments of kvpress's ExpectedAttention with its own code, given projected queries."""
    from kvpress import ExpectedAttentionPress

    batch, heads, tokens, head_dim = queries.shape
    as_they_are = queries.new_ones(1, 1, head_dim), queries.new_zeros(1, 1, head_dim)
    module = SimpleNamespace(
        config=SimpleNamespace(num_attention_heads=heads),
        head_dim=head_dim,
        q_proj=lambda _: queries.transpose(1, 2).flatten(2),
        rotary_emb=lambda *_: as_they_are,
    )
    press = ExpectedAttentionPress(n_future_positions=1, n_sink=0)
    return press.get_query_statistics(module, queries.new_empty(batch, tokens, 0))


def make(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    group: int,
    tokens: int,
    head_dim: int,
    covariances: int,
) -> Inputs:
    """Return moments for which attention is not uniform; no covariance if `covariances` is 0."""
    keys = torch.randn(batch, heads, tokens, head_dim, device=device)
    keys[:, :, :: max(1, tokens // 7)] *= 1.5
    mean = torch.randn(batch, heads * group, head_dim, device=device)
    factor = torch.randn(batch, heads * group, head_dim, head_dim, device=device) / head_dim**0.5
    return {
        "keys": keys.to(dtype),
        "mean": mean,
        "covariance": factor @ factor.transpose(2, 3) if covariances else None,
        "scaling": head_dim**-0.5,
    }


def work(
    element_size: int, *, batch: int, heads: int, group: int, tokens: int, head_dim: int, covariances: int
) -> Work:
    """Return the floor: keys read once, a matrix product with each covariance and one with the means."""
    rows = head_dim if covariances else 0
    return Work(
        bytes=batch * heads * (tokens * (head_dim * element_size + 4) + 4 * group * head_dim * (rows + 1)),
        flops=2 * batch * heads * group * tokens * head_dim * (rows + 1),
    )


def kvpress_attention(
    keys: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return the scores of kvpress's ExpectedAttention with its own code, given moments."""
    from kvpress import ExpectedAttentionPress

    press = ExpectedAttentionPress(n_sink=0, use_covariance=covariance is not None, use_vnorm=False)
    moments = mean.to(keys.dtype), None if covariance is None else covariance.to(keys.dtype)
    press.get_query_statistics = lambda *_: moments  # type: ignore[method-assign]
    module = SimpleNamespace(config=SimpleNamespace(num_attention_heads=mean.shape[1]))
    return press.score(module, keys.new_empty(0), keys, keys, None, {})


QUERY_MOMENTS = Operation(
    name="query_moments",
    folder="expected_attention",
    make=make_queries,
    small=[
        {"batch": 2, "heads": 3, "tokens": 37, "head_dim": 32},
        {"batch": 1, "heads": 1, "tokens": 1, "head_dim": 80},
        {"batch": 1, "heads": 2, "tokens": 700, "head_dim": 80},
        {"batch": 1, "heads": 32, "tokens": 530, "head_dim": 32},
        {"batch": 1, "heads": 1, "tokens": 130, "head_dim": 256},
    ],
    large=[{"batch": 1, "heads": 32, "tokens": tokens, "head_dim": 128} for tokens in (8192, 32768, 131072)],
    work=moments_work,
    rivals={"kvpress ExpectedAttention": kvpress_moments},
)

EXPECTED_ATTENTION = Operation(
    name="expected_attention",
    folder="expected_attention",
    make=make,
    small=[
        {"batch": 2, "heads": 2, "group": 3, "tokens": 37, "head_dim": 32, "covariances": 1},
        {"batch": 1, "heads": 1, "group": 1, "tokens": 1, "head_dim": 80, "covariances": 1},
        {"batch": 1, "heads": 1, "group": 8, "tokens": 300, "head_dim": 80, "covariances": 1},
        {"batch": 1, "heads": 1, "group": 2, "tokens": 140, "head_dim": 256, "covariances": 1},
        {"batch": 2, "heads": 1, "group": 4, "tokens": 150, "head_dim": 64, "covariances": 0},
        {"batch": 1, "heads": 2, "group": 2, "tokens": 0, "head_dim": 64, "covariances": 1},
    ],
    large=[
        {"batch": 1, "heads": 8, "group": 4, "tokens": tokens, "head_dim": 128, "covariances": 1}
        for tokens in (8192, 32768, 131072)
    ],
    work=work,
    rivals={"kvpress ExpectedAttention": kvpress_attention},
)
