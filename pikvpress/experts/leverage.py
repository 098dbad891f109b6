"""kvpress's leverage scores without solving a system for every key."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kvpress import LeverageScorePress

JITTER = 1e-2


@dataclass
class StreamedLeverageScorePress(LeverageScorePress):
    """Score keys as kvpress's `LeverageScorePress` does (https://arxiv.org/abs/2507.08143).

    The settings are the same and, in float32, so are the scores up to rounding, given the same random numbers.
    """

    @staticmethod
    def compute_leverage_scores(key_states: torch.Tensor, sketch_dimension: int) -> torch.Tensor:
        """Return the statistical leverage of sketched keys, shape (batch, kv_heads, keys).

        With X the centred keys times a Gaussian sketch and XᵀX = LLᵀ, it is ‖L⁻¹x‖² for each row x. L is as small as
        the sketch and is inverted once.

        Parameters
        ----------
        key_states : torch.Tensor
            Keys before rotation, shape (batch, kv_heads, keys, head_dim).
        sketch_dimension : int
            Number of columns of the sketch.
        """
        shape = (*key_states.shape[:2], key_states.shape[3], sketch_dimension)
        sketch = torch.randn(shape, device=key_states.device, dtype=key_states.dtype) * (
            1 / math.sqrt(sketch_dimension)
        )
        sketched = ((key_states - key_states.mean(dim=-2, keepdim=True)) @ sketch).float()
        gram = sketched.transpose(-2, -1) @ sketched
        root = LeverageScorePress.chol_with_jitter(0.5 * (gram + gram.transpose(-2, -1)), jitter=JITTER)
        identity = torch.eye(sketch_dimension, device=root.device, dtype=root.dtype).expand_as(root)
        inverse = torch.linalg.solve_triangular(root, identity, upper=False)
        return (sketched @ inverse.transpose(-2, -1)).square_().sum(dim=-1)
