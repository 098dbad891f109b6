"""The definition of non-causal attention within chunks, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pikvpress.kernels.checks import check_self_attention


def chunk_attention(queries: torch.Tensor, keys: torch.Tensor, chunk: int) -> torch.Tensor:
    """Return the attention that each key receives from all queries of its chunk, before and behind it.

    With a = softmax(q kᵀ) over the keys of a chunk, without a factor, key t receives the sum of a[q, t] over the
    queries of its chunk, averaged over the query heads of its KV head (Compactor, https://arxiv.org/abs/2507.08143).
    A last chunk that is not full is filled up with queries and keys of zeros, as in kvpress's `NonCausalAttnPress`:
    each of these queries pays 1 / chunk to every key, and each of these keys adds exp(0) to every query's denominator.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries of all tokens, shape (B, H * G, T, D).
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    chunk : int
        Tokens of a chunk.

    Returns
    -------
    torch.Tensor
        float32 (float64 of float64), shape (B, H, T); a full chunk's sum is `chunk`.

    Raises
    ------
    ValueError
        If queries and keys do not fit, or the chunk has no token.
    """
    check_self_attention(queries, keys)
    check_chunk(chunk)
    heads, tokens = keys.shape[1:3]
    group = queries.shape[1] // max(1, heads)
    wide = torch.promote_types(keys.dtype, torch.float32)
    filled = -tokens % chunk
    if filled:
        queries, keys = F.pad(queries, (0, 0, 0, filled)), F.pad(keys, (0, 0, 0, filled))
    queries, keys = queries.unflatten(2, (-1, chunk)), keys.unflatten(2, (-1, chunk))  # (B, H, chunks, chunk, D)
    received = torch.zeros(keys.shape[:4], dtype=wide, device=keys.device)
    for member in range(group):  # one query head of each group at a time bounds the logits' memory
        logits = (queries[:, member::group] @ keys.transpose(3, 4)).to(wide)
        received += logits.softmax(dim=-1).sum(dim=3)
    return received.flatten(2)[..., :tokens] / group


def check_chunk(chunk: int) -> None:
    """Check that a chunk has tokens.

    Raises
    ------
    ValueError
        If it has none.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: pass at least 1 token")
