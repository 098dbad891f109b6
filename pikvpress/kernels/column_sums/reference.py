"""The definition of the column sums of causal attention, in plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pikvpress.kernels.checks import check_self_attention

ROWS = 256  # queries whose logits are held at once


def causal_log_sums(queries: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the log-sum-exp of every query's logits over the keys it sees.

    Flash attention returns the same alongside its output.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries of all tokens, shape (B, H * G, T, D).
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    scaling : float
        Factor on the logits, usually D ** -0.5.

    Returns
    -------
    torch.Tensor
        Natural logarithms, float32 (float64 for float64 input), shape (B, H * G, T).

    Raises
    ------
    ValueError
        If queries and keys do not match.
    """
    check_self_attention(queries, keys)
    wide = torch.promote_types(keys.dtype, torch.float32)
    log_sums = torch.empty(queries.shape[:3], dtype=wide, device=keys.device)
    for head, rows, logits in _causal_logits(queries, keys, scaling):
        log_sums[:, head, rows] = logits.logsumexp(dim=-1)
    return log_sums


def column_sums(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, log_sums: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the attention that each key receives from all queries of the context.

    With a = softmax(q kᵀ · scaling) under the causal mask, key t receives Σ_q a[q, t], averaged over the query heads of
    its KV head. This is what H2O (https://arxiv.org/abs/2306.14048) accumulates, computed without storing the matrix a.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries of all tokens, shape (B, H * G, T, D).
    keys : torch.Tensor
        Rotated keys, shape (B, H, T, D).
    scaling : float
        Factor on the logits, usually D ** -0.5.
    log_sums : torch.Tensor, optional
        Result of `causal_log_sums` for these queries and keys, if already known; this saves computing the logits twice.

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, T); the sum over a head is T.

    Raises
    ------
    ValueError
        If queries, keys and log-sum-exps do not match.
    """
    check_self_attention(queries, keys)
    check_log_sums(log_sums, queries)
    group = queries.shape[1] // max(1, keys.shape[1])
    wide = torch.promote_types(keys.dtype, torch.float32)
    received = torch.zeros(keys.shape[:3], dtype=wide, device=keys.device)
    for head, rows, logits in _causal_logits(queries, keys, scaling):
        attention = logits.softmax(dim=-1) if log_sums is None else (logits - log_sums[:, head, rows, None]).exp_()
        received[:, :, : rows.stop] += attention.sum(dim=2)
    return received / group


def check_log_sums(log_sums: torch.Tensor | None, queries: torch.Tensor) -> None:
    """Check that there is one log-sum-exp for each query.

    Raises
    ------
    ValueError
        If there are more, or fewer.
    """
    if log_sums is not None and log_sums.shape != queries.shape[:3]:
        raise ValueError(
            f"log_sums are {tuple(log_sums.shape)}: pass one for each query, shape {tuple(queries.shape[:3])}, as "
            "causal_log_sums returns them"
        )


def _causal_logits(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield slices of query heads, one per KV head, and of tokens, and their logits over keys up to the last token."""
    heads, tokens = keys.shape[1:3]
    group = queries.shape[1] // max(1, heads)
    wide = torch.promote_types(keys.dtype, torch.float32)
    later = torch.ones(ROWS, ROWS, dtype=torch.bool, device=keys.device).triu(1)
    for start in range(0, tokens, ROWS):
        rows = slice(start, min(start + ROWS, tokens))
        count = rows.stop - start
        seen = keys[:, :, : rows.stop].transpose(2, 3)
        for member in range(group):
            head = slice(member, None, group)
            logits = (queries[:, head, rows] @ seen).to(wide) * scaling
            logits[..., start:].masked_fill_(later[:count, :count], -torch.inf)
            yield head, rows, logits
