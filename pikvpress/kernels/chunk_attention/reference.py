"""The definition of non-causal attention within chunks, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pikvpress.kernels.attend import attend
from pikvpress.kernels.checks import check_self_attention


def chunk_attention(queries: torch.Tensor, keys: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return the attention that each key receives from all queries in its chunk, both before and after it.

    With a = softmax(q kᵀ) over the keys of a chunk, with unscaled logits, key t receives the sum of a[q, t] over the
    queries of its chunk, averaged over the query heads of its KV head (Compactor, https://arxiv.org/abs/2507.08143).
    If the last chunk is not full, it is padded with queries and keys of zeros, as in kvpress's `NonCausalAttnPress`:
    each of these queries pays 1 / chunk to every key, and each of these keys adds exp(0) to every query's denominator.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries of all tokens, shape (B, H * G, T, D).
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    chunk : int
        Number of tokens per chunk.

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, T); the sum over a full chunk is `chunk`.

    Raises
    ------
    ValueError
        If queries and keys do not match, or `chunk` is less than 1.
    """
    check_self_attention(queries, keys)
    check_chunk(chunk)
    heads, tokens = keys.shape[1:3]
    group = queries.shape[1] // max(1, heads)
    wide = torch.promote_types(keys.dtype, torch.float32)
    filled = -tokens % chunk
    if filled:
        queries, keys = F.pad(queries, (0, 0, 0, filled)), F.pad(keys, (0, 0, 0, filled))
    queries = queries.unflatten(1, (heads, group)).unflatten(3, (-1, chunk))  # (B, H, G, chunks, chunk, D)
    keys = keys.unflatten(2, (-1, chunk))
    received = torch.empty(keys.shape[:4], dtype=wide, device=keys.device)
    attention = torch.empty(*keys.shape[:2], group * chunk, chunk, dtype=wide, device=keys.device)
    for number in range(keys.shape[2]):
        rows = queries[:, :, :, number].flatten(2, 3)
        received[:, :, number] = attend(rows, keys[:, :, number], 1.0, attention).sum(dim=2)
    return received.flatten(2)[..., :tokens] / group


def check_chunk(chunk: int) -> None:
    """Check that a chunk has at least one token.

    Raises
    ------
    ValueError
        If it has none.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: pass at least 1 token")
