"""Attention that keys receive from all queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
    known: int = 0,
) -> Inputs:
    """Return queries and keys, some of them strong; ``known`` is 1 if the log-sum-exps are available."""
    queries = torch.randn(batch, tokens, heads * group, head_dim, device=device).transpose(1, 2)  # as projected
    keys = torch.randn(batch, heads, tokens, head_dim, device=device)
    keys[:, :, :: max(1, tokens // 7)] *= 3
    inputs: Inputs = {"queries": queries.to(dtype), "keys": keys.to(dtype), "scaling": head_dim**-0.5}
    if known:
        logits = inputs["queries"].double() @ inputs["keys"].double().repeat_interleave(group, dim=1).transpose(2, 3)
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)
        log_sums = (logits * inputs["scaling"]).masked_fill(later, -torch.inf).logsumexp(dim=-1)
        inputs["log_sums"] = log_sums.float()
    return inputs


def make_without(dtype: torch.dtype, device: str, **shape: int) -> Inputs:
    """Return queries and keys."""
    return make(dtype, device, **shape)


def work_of(products: int, results: int, element_size: int, shape: dict[str, int]) -> Work:
    """Return the floor: both read once, the given number of products over the lower triangle, float32 results."""
    tokens, head_dim = shape["tokens"], shape["head_dim"]
    all_heads = shape["batch"] * shape["heads"] * shape["group"]
    numbers = shape["batch"] * shape["heads"] * (shape["group"] + 1) * tokens * head_dim
    return Work(
        bytes=numbers * element_size + 4 * results,
        flops=products * all_heads * tokens * (tokens + 1) * head_dim,
    )


def work(element_size: int, **shape: int) -> Work:
    """Return the floor: each logit is needed before its row's sum is known, and again afterwards."""
    products = 1 if shape.get("known") else 2
    return work_of(products, shape["batch"] * shape["heads"] * shape["tokens"], element_size, shape)


def work_of_log_sums(element_size: int, **shape: int) -> Work:
    """Return the floor: one product."""
    return work_of(1, shape["batch"] * shape["heads"] * shape["group"] * shape["tokens"], element_size, shape)


def eager(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the sums of the matrix of eager attention, which kvpress's observed attention reads."""
    (batch, all_heads, tokens, _), heads = queries.shape, keys.shape[1]
    needed = 4 * batch * all_heads * tokens**2
    if needed > (2**34 if queries.is_cuda else 2**31):
        raise torch.OutOfMemoryError(f"the attention matrix takes {needed / 2**30:.0f} GiB")
    logits = queries @ keys.repeat_interleave(all_heads // heads, dim=1).transpose(2, 3) * scaling
    logits += torch.full((tokens, tokens), -torch.inf, dtype=logits.dtype, device=logits.device).triu(1)
    attention = logits.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    return attention.sum(dim=2).unflatten(1, (heads, -1)).mean(dim=2)


def flash_forward(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return attention's output, a different result, as a reference for the cost of a pass over the lower triangle."""
    return F.scaled_dot_product_attention(queries, keys, keys, is_causal=True, scale=scaling, enable_gqa=True)


SMALL = [
    {"batch": 2, "heads": 2, "group": 3, "tokens": 37, "head_dim": 32},
    {"batch": 1, "heads": 1, "group": 1, "tokens": 1, "head_dim": 80},
    {"batch": 1, "heads": 2, "group": 2, "tokens": 300, "head_dim": 64},
    {"batch": 1, "heads": 1, "group": 8, "tokens": 130, "head_dim": 80},
    {"batch": 1, "heads": 1, "group": 1, "tokens": 200, "head_dim": 256},
    {"batch": 2, "heads": 1, "group": 1, "tokens": 128, "head_dim": 128},
    {"batch": 1, "heads": 2, "group": 1, "tokens": 0, "head_dim": 64},
]
LARGE = [{"batch": 1, "heads": 8, "group": 4, "tokens": tokens, "head_dim": 128} for tokens in (8192, 32768)]

COLUMN_SUMS = Operation(
    name="column_sums",
    folder="column_sums",
    make=make,
    small=[*SMALL, {"batch": 2, "heads": 2, "group": 2, "tokens": 150, "head_dim": 64, "known": 1}],
    large=LARGE,
    work=work,
    rivals={"eager": eager, "sdpa forward (keys as values)": flash_forward},
)

CAUSAL_LOG_SUMS = Operation(
    name="causal_log_sums",
    folder="column_sums",
    make=make_without,
    small=SMALL,
    large=LARGE,
    work=work_of_log_sums,
    rivals={"sdpa forward (keys as values)": flash_forward},
)
