"""kvpress's LagKV without a separate pass for every statistic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import LagKVPress


@dataclass
class StreamedLagKVPress(LagKVPress):
    """Score keys as kvpress's `LagKVPress` does (https://arxiv.org/abs/2504.04704).

    The settings are the same and, in float32, so are the scores up to rounding, which may swap two adjacent ranks in a
    partition.
    """

    def _get_states_score(self, target_v: torch.Tensor) -> torch.Tensor:
        """Return how much channels vary, relative to their range in the next partition.

        The input has shape (batch, kv_heads, partitions, lag_size, D), the result (batch, kv_heads, partitions - 1,
        lag_size), with rows that sum to 1.
        """
        states, following = target_v[:, :, :-1], target_v[:, :, 1:]
        lowest, highest = following.amin(dim=-2, keepdim=True), following.amax(dim=-2, keepdim=True)
        relative = (states - lowest).div_(highest - lowest)
        relative -= relative.mean(dim=-1, keepdim=True)
        spread = torch.linalg.vector_norm(relative, dim=-1) / (relative.shape[-1] - 1) ** 0.5
        return spread.softmax(dim=-1)
