"""Attention over parts of a cache that were read apart, put together exactly."""

from __future__ import annotations

import torch


def merged(outputs: torch.Tensor, log_sums: torch.Tensor) -> torch.Tensor:
    """Return the attention over all parts, given that over each of them.

    With s_p the log-sum-exp of the logits of part p, and o_p its output, the output over all parts is Σ_p exp(s_p - s)
    o_p with s = log Σ_p exp(s_p), as in FlashDecoding and ring attention (https://arxiv.org/abs/2310.01889).

    Parameters
    ----------
    outputs : torch.Tensor
        Shape (parts, ..., head_dim).
    log_sums : torch.Tensor
        Shape (parts, ...); -inf for a part without entries, whose output then does not matter. At least one part of
        each row has entries.
    """
    weights = log_sums.softmax(dim=0).unsqueeze(-1)
    return torch.where(weights == 0, 0, weights * outputs).sum(dim=0)
